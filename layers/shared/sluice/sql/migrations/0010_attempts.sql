-- min_compatible_version: 1
-- Calls of models that failed or were repeated, models that stand in for others, and circuit breakers.

-- All locks at once, and first those that others take first (see 0007_token_classes.sql). Nothing is read or rewritten
-- meanwhile.
LOCK TABLE quota_plans IN EXCLUSIVE MODE;
LOCK TABLE api_keys, models, inflight, requests, requests_archive, prompts, results IN ACCESS EXCLUSIVE MODE;

ALTER TABLE api_keys ADD COLUMN models varchar(255)[];
COMMENT ON COLUMN api_keys.models IS 'The models that the key may be used for; NULL: all.';

ALTER TABLE models ADD COLUMN fallbacks varchar(255)[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN models.fallbacks IS
    'The models that answer in its place, in this order, when it cannot; see sluice.domain.failures.';

ALTER TABLE prompts ADD COLUMN handling jsonb;
COMMENT ON COLUMN prompts.handling IS
    'What was decided when the request was accepted, beside its model: fallbacks (models, in order), repair_attempts. '
    'NULL: nothing.';

ALTER TABLE requests ADD COLUMN charges jsonb;
ALTER TABLE requests_archive ADD COLUMN charges jsonb;
COMMENT ON COLUMN requests.charges IS
    'The tokens that are charged, by model: an array of objects with model_id, prompt_tokens, completion_tokens, '
    'cached_tokens, reasoning_tokens, which add up to those of the request. NULL: all are of the request''s model.';
CREATE OR REPLACE VIEW requests_all WITH (security_invoker = true) AS
    SELECT * FROM requests UNION ALL SELECT * FROM requests_archive;

-- Virtual: no row is rewritten.
-- squawk-ignore adding-field-with-default
ALTER TABLE results ADD COLUMN json jsonb GENERATED ALWAYS AS (
    CASE WHEN output ->> 'result_type' = 'json' THEN (output #>> '{items,0,content,0,text}')::jsonb END) VIRTUAL;
COMMENT ON COLUMN results.json IS 'The answer, where it is JSON of the form that was asked for.';

-- Not partitioned: a request that succeeds at once has no row.
CREATE TABLE attempts (
    request_id        uuid         NOT NULL,
    attempt           smallint     NOT NULL,
    call              smallint     NOT NULL,
    model_id          varchar(255) NOT NULL,
    backend           varchar(20)  NOT NULL,
    cause             varchar(50),
    http_status       smallint,
    prompt_tokens     integer,
    completion_tokens integer,
    cached_tokens     integer,
    reasoning_tokens  integer,
    is_charged        boolean      NOT NULL,
    begun_at          timestamptz  NOT NULL,
    ended_at          timestamptz  NOT NULL,
    PRIMARY KEY (request_id, attempt, call),
    CONSTRAINT attempts_tokens_not_negative CHECK (prompt_tokens >= 0 AND completion_tokens >= 0),
    CONSTRAINT attempts_charged_has_tokens
        CHECK (NOT is_charged OR (prompt_tokens IS NOT NULL AND completion_tokens IS NOT NULL))
);
COMMENT ON TABLE attempts IS
    'Calls of models: all of an attempt in which one failed or had to be repeated. An attempt that succeeds with its '
    'first call has no row.';
COMMENT ON COLUMN attempts.attempt IS 'The claim in which the model was called; see inflight.attempt.';
COMMENT ON COLUMN attempts.call IS 'Which call of the claim, from 1; 0: the worker was lost, and its calls with it.';
COMMENT ON COLUMN attempts.cause IS 'Why it failed or was repeated; an error_code as in requests. NULL: it answered.';
COMMENT ON COLUMN attempts.http_status IS 'What the model''s server answered with, where that was an error.';
COMMENT ON COLUMN attempts.prompt_tokens IS 'As the model reported it; NULL: it reported nothing.';
COMMENT ON COLUMN attempts.is_charged IS
    'Whether its tokens are charged to the user: those of answers, up to the last one, of the attempt that ended the '
    'request.';

ALTER TABLE inflight ADD COLUMN is_held boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN inflight.is_held IS
    'Its not_before is that of a circuit breaker: it waits until one of its models may be called.';

-- Rows only of models that fail now.
CREATE TABLE model_breakers (
    model_id      varchar(255) PRIMARY KEY REFERENCES models,
    failures      integer      NOT NULL,
    last_error    varchar(50)  NOT NULL,
    opened_at     timestamptz,
    probe_at      timestamptz,
    pause_seconds integer,
    updated_at    timestamptz  NOT NULL,
    CONSTRAINT model_breakers_failures_positive CHECK (failures > 0),
    CONSTRAINT model_breakers_open_is_probed
        CHECK ((opened_at IS NULL) = (probe_at IS NULL) AND (opened_at IS NULL) = (pause_seconds IS NULL))
) WITH (fillfactor = 50);
COMMENT ON TABLE model_breakers IS 'Circuit breakers: models whose calls fail, one after the other.';
COMMENT ON COLUMN model_breakers.failures IS 'Calls that failed since the last one that succeeded.';
COMMENT ON COLUMN model_breakers.opened_at IS
    'Since when the model is not called, except for probes; NULL: it is still called.';
COMMENT ON COLUMN model_breakers.probe_at IS 'When the next request may call it, as a probe.';
