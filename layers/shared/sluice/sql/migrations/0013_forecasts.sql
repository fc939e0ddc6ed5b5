-- min_compatible_version: 1
-- What answers were like, for forecasts, and how good the forecasts were.

CREATE TABLE answer_sizes (
    model_id          varchar(255) NOT NULL REFERENCES models,
    prompt_size       smallint     NOT NULL,
    answer_size       smallint     NOT NULL,
    user_id           varchar(255) NOT NULL REFERENCES users,
    answers           bigint       NOT NULL,
    prompt_most       bigint       NOT NULL,
    prompt_tokens     bigint       NOT NULL,
    completion_tokens bigint       NOT NULL,
    PRIMARY KEY (model_id, prompt_size, answer_size, user_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE answer_sizes IS
    'Sums over the answers of a model to requests of one size: what a forecast for a request of that size is made of.';
COMMENT ON COLUMN answer_sizes.prompt_size IS
    'Logarithm to base 2 of the share of the prompt in the reservation, rounded down.';
COMMENT ON COLUMN answer_sizes.answer_size IS 'The same of max_tokens; -1: none, as of embeddings.';
COMMENT ON COLUMN answer_sizes.prompt_most IS 'The sum of these shares.';

CREATE TABLE forecast_stats (
    day              date         NOT NULL,
    model_id         varchar(255) NOT NULL REFERENCES models,
    answers          bigint       NOT NULL,
    forecast_tokens  bigint       NOT NULL,
    actual_tokens    bigint       NOT NULL,
    error_tokens     bigint       NOT NULL,
    above_bound      bigint       NOT NULL,
    waits            bigint       NOT NULL,
    forecast_wait_ms bigint       NOT NULL,
    actual_wait_ms   bigint       NOT NULL,
    error_wait_ms    bigint       NOT NULL,
    PRIMARY KEY (day, model_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE forecast_stats IS
    'How good forecasts were, by the day (UTC) on which requests were accepted. Every answer is compared with the '
    'forecast that the answers before it gave; waits are those of requests that were accepted with a quote.';
COMMENT ON COLUMN forecast_stats.error_tokens IS 'The sum of the differences, each without its sign.';
COMMENT ON COLUMN forecast_stats.above_bound IS 'Answers with more tokens than were reserved for them.';

-- Older answers are not read: they may be many.
INSERT INTO rollup_watermarks (task, xact_id)
SELECT 'forecasts', w.xact_id FROM rollup_watermarks w WHERE w.task = 'stats';
