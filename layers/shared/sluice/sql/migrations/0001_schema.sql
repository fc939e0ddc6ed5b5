-- min_compatible_version: 1
-- The first schema. Rules and reasons: docs/data-model.md; decisions: docs/adr/.
--
-- Conventions: ids that carry time are UUIDv7 made by this database; limits that are NULL mean "unlimited";
-- times are timestamptz, periods are calendar-aligned UTC; names of constraints say what they promise.

-- Tiers, users, keys, plans -------------------------------------------------------------------------------------------

CREATE TABLE price_lists (
    price_list varchar(50) PRIMARY KEY,
    currency   char(3)     NOT NULL DEFAULT 'USD',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT price_lists_price_list_not_empty CHECK (price_list <> ''),
    CONSTRAINT price_lists_currency_is_iso_4217 CHECK (currency ~ '^[A-Z]{3}$')
);
INSERT INTO price_lists (price_list) VALUES ('standard');

CREATE TABLE tiers (
    tier            varchar(20) PRIMARY KEY,
    reset_frequency varchar(20) NOT NULL DEFAULT 'monthly',
    max_unfinished  integer     NOT NULL,
    dispatch_window integer     NOT NULL,
    price_list      varchar(50) NOT NULL DEFAULT 'standard',
    CONSTRAINT tiers_reset_frequency_known CHECK (reset_frequency IN ('daily', 'monthly')),
    CONSTRAINT tiers_max_unfinished_positive CHECK (max_unfinished > 0),
    CONSTRAINT tiers_dispatch_window_positive CHECK (dispatch_window > 0),
    CONSTRAINT tiers_price_list_known FOREIGN KEY (price_list) REFERENCES price_lists
);
COMMENT ON TABLE tiers IS 'What a plan allows; a user''s plan starts as a copy of its tier.';
COMMENT ON COLUMN tiers.price_list IS 'The price list by which the tokens of the tier''s users are billed.';

CREATE TABLE tier_limits (
    tier         varchar(20) NOT NULL REFERENCES tiers,
    quota_period varchar(20) NOT NULL,
    max_requests integer,
    max_tokens   bigint,
    PRIMARY KEY (tier, quota_period),
    CONSTRAINT tier_limits_period_known CHECK (quota_period IN ('minute', 'daily', 'monthly')),
    CONSTRAINT tier_limits_not_negative CHECK (max_requests >= 0 AND max_tokens >= 0)
);

CREATE TABLE users (
    user_id    varchar(50) PRIMARY KEY,
    name       varchar(100),
    email      varchar(255),
    is_active  boolean     NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_user_id_not_empty CHECK (user_id <> '')
);
CREATE UNIQUE INDEX users_email_key ON users (lower(email)) WHERE email IS NOT NULL;

CREATE TABLE api_keys (
    key_id       uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id      varchar(50) NOT NULL REFERENCES users,
    key_hash     bytea       NOT NULL,
    key_prefix   varchar(20) NOT NULL,
    name         varchar(100),
    scopes       varchar(20)[] NOT NULL DEFAULT '{submit,read}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash),
    CONSTRAINT api_keys_key_hash_is_sha256 CHECK (octet_length(key_hash) = 32),
    CONSTRAINT api_keys_scopes_known CHECK (scopes <@ '{submit,read}' AND cardinality(scopes) > 0)
) WITH (fillfactor = 80);
CREATE INDEX api_keys_user ON api_keys (user_id);
COMMENT ON COLUMN api_keys.key_hash IS 'SHA-256 of the key; the key itself is not stored.';

CREATE TABLE quota_plans (
    quota_id        integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id         varchar(50) NOT NULL REFERENCES users,
    tier            varchar(20) NOT NULL,
    reset_frequency varchar(20) NOT NULL,
    max_unfinished  integer     NOT NULL,
    dispatch_window integer     NOT NULL,
    is_override     boolean     NOT NULL DEFAULT false,
    CONSTRAINT quota_plans_user_id_key UNIQUE (user_id),
    CONSTRAINT quota_plans_tier_known FOREIGN KEY (tier) REFERENCES tiers,
    CONSTRAINT quota_plans_reset_frequency_known CHECK (reset_frequency IN ('daily', 'monthly')),
    CONSTRAINT quota_plans_max_unfinished_positive CHECK (max_unfinished > 0),
    CONSTRAINT quota_plans_dispatch_window_positive CHECK (dispatch_window > 0)
);
COMMENT ON TABLE quota_plans IS
    'What a user may do. The row is also the user lock: it is locked before anything in the user''s ledger changes.';
COMMENT ON COLUMN quota_plans.max_unfinished IS 'How many of the user''s requests may be unfinished at once.';
COMMENT ON COLUMN quota_plans.dispatch_window IS
    'Concurrency limit: how many of the user''s requests may be dispatched (in the queue or at a worker) at once.';
COMMENT ON COLUMN quota_plans.is_override IS
    'The plan''s reset_frequency, max_unfinished and dispatch_window are the user''s own and do not follow the tier.';
COMMENT ON COLUMN quota_plans.reset_frequency IS
    'The period by which the plan is sold. For information only: the limits of every period apply.';

CREATE TABLE quotas (
    user_id         varchar(50) NOT NULL REFERENCES users,
    quota_period    varchar(20) NOT NULL,
    max_requests    integer,
    max_tokens      bigint,
    is_override     boolean     NOT NULL DEFAULT false,
    requests_used   integer     NOT NULL DEFAULT 0,
    tokens_used     bigint      NOT NULL DEFAULT 0,
    tokens_reserved bigint      NOT NULL DEFAULT 0,
    period_start    timestamptz NOT NULL,
    reset_at        timestamptz NOT NULL,
    PRIMARY KEY (user_id, quota_period),
    CONSTRAINT quotas_period_known CHECK (quota_period IN ('minute', 'daily', 'monthly')),
    CONSTRAINT quotas_limits_not_negative CHECK (max_requests >= 0 AND max_tokens >= 0),
    CONSTRAINT quotas_counters_not_negative CHECK (requests_used >= 0 AND tokens_used >= 0 AND tokens_reserved >= 0),
    CONSTRAINT quotas_reset_after_start CHECK (reset_at > period_start)
    -- Three counters change with every request: free space on the page keeps these updates HOT.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE quotas IS
    'What is used and reserved, one row per user and period; reset only when a request of a later period arrives.';
COMMENT ON COLUMN quotas.is_override IS 'The limits are the user''s own and do not follow the tier.';

CREATE TABLE billing_terms (
    user_id    varchar(50) NOT NULL REFERENCES users,
    valid_from date        NOT NULL,
    tier       varchar(20) NOT NULL REFERENCES tiers,
    price_list varchar(50) NOT NULL REFERENCES price_lists,
    PRIMARY KEY (user_id, valid_from)
);
COMMENT ON TABLE billing_terms IS
    'The price list by which a user''s tokens of a day (UTC) are billed: that of the latest terms that had begun by '
    'that day. A change of tier today therefore does not change yesterday''s invoices.';

-- Models and prices ---------------------------------------------------------------------------------------------------

CREATE TABLE models (
    model_id           varchar(50)  PRIMARY KEY,
    backend            varchar(20)  NOT NULL,
    backend_model      varchar(200) NOT NULL,
    endpoint           text,
    secret_arn         text,
    max_tokens_default integer      NOT NULL,
    max_tokens_limit   integer      NOT NULL,
    overhead_tokens    integer      NOT NULL DEFAULT 64,
    timeout_seconds    integer      NOT NULL DEFAULT 60,
    is_default         boolean      NOT NULL DEFAULT false,
    is_active          boolean      NOT NULL DEFAULT true,
    created_at         timestamptz  NOT NULL DEFAULT now(),
    updated_at         timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT models_openai_has_endpoint CHECK (backend <> 'openai' OR endpoint IS NOT NULL),
    CONSTRAINT models_max_tokens_in_order CHECK (0 < max_tokens_default AND max_tokens_default <= max_tokens_limit),
    CONSTRAINT models_overhead_not_negative CHECK (overhead_tokens >= 0),
    CONSTRAINT models_timeout_positive CHECK (timeout_seconds > 0),
    CONSTRAINT models_default_is_active CHECK (is_active OR NOT is_default)
);
CREATE UNIQUE INDEX models_one_default ON models (is_default) WHERE is_default;
COMMENT ON COLUMN models.overhead_tokens IS
    'The most tokens that the chat template adds: a request''s reservation is the bytes of its text + this + '
    'max_tokens.';

CREATE TABLE prices (
    price_list        varchar(50)    NOT NULL DEFAULT 'standard',
    model_id          varchar(50)    NOT NULL REFERENCES models,
    token_class       varchar(20)    NOT NULL,
    valid_from        date           NOT NULL,
    price_per_million numeric(20, 10) NOT NULL,
    PRIMARY KEY (price_list, model_id, token_class, valid_from),
    CONSTRAINT prices_price_list_known FOREIGN KEY (price_list) REFERENCES price_lists,
    CONSTRAINT prices_token_class_known CHECK (token_class IN ('prompt', 'completion')),
    CONSTRAINT prices_not_negative CHECK (price_per_million >= 0)
);
COMMENT ON COLUMN prices.valid_from IS
    'A price applies from the start of this day (UTC) until the next price of the same list, model and class begins.';

-- Requests ------------------------------------------------------------------------------------------------------------

-- Narrow on purpose: the two updates of a row stay HOT (no index on the columns that change, free space on the page).
-- No foreign keys: only request_admit inserts rows, after it has read the user and the model, and a foreign key would
-- block archiving.
CREATE TABLE requests (
    request_id         uuid        NOT NULL DEFAULT uuidv7(),
    user_id            varchar(50) NOT NULL,
    key_id             uuid,
    model_id           varchar(50) NOT NULL,
    status             varchar(20) NOT NULL DEFAULT 'queued',
    attempts           smallint    NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    started_at         timestamptz,
    completed_at       timestamptz,
    processing_time_ms integer,
    estimated_tokens   integer     NOT NULL,
    reserved_tokens    integer     NOT NULL,
    prompt_tokens      integer,
    completion_tokens  integer,
    total_tokens       integer,
    result_id          uuid,
    error_code         varchar(50),
    error_message      text,
    PRIMARY KEY (request_id),
    CONSTRAINT requests_created_at_is_the_ids CHECK (created_at = uuid_extract_timestamp(request_id)),
    CONSTRAINT requests_status_known
        CHECK (status IN ('queued', 'processing', 'completed', 'failed', 'cancelled', 'expired')),
    CONSTRAINT requests_times_in_order
        CHECK (started_at >= created_at AND completed_at >= coalesce(started_at, created_at)),
    CONSTRAINT requests_finished_has_time
        CHECK ((status IN ('completed', 'failed', 'cancelled', 'expired')) = (completed_at IS NOT NULL)),
    CONSTRAINT requests_completed_has_result CHECK ((status = 'completed') = (result_id IS NOT NULL)),
    CONSTRAINT requests_failed_has_reason CHECK (status <> 'failed' OR error_code IS NOT NULL),
    CONSTRAINT requests_tokens_not_negative
        CHECK (prompt_tokens >= 0 AND completion_tokens >= 0 AND reserved_tokens >= 0 AND estimated_tokens >= 0),
    CONSTRAINT requests_total_is_the_sum CHECK (total_tokens = prompt_tokens + completion_tokens)
) PARTITION BY RANGE (request_id);
CREATE INDEX requests_user ON requests (user_id, request_id);
COMMENT ON COLUMN requests.attempts IS 'Number of the latest attempt; see inflight.attempt.';

CREATE TABLE requests_archive (LIKE requests INCLUDING ALL) PARTITION BY RANGE (request_id);
COMMENT ON TABLE requests_archive IS 'Whole months of requests, moved here by DETACH and ATTACH; see archive_months().';

-- Runs with the rights of the role that reads it, so that a row-level policy of the tables would apply here too.
CREATE VIEW requests_all WITH (security_invoker = true) AS
    SELECT * FROM requests UNION ALL SELECT * FROM requests_archive;
COMMENT ON VIEW requests_all IS 'Every request, archived or not.';

CREATE TABLE prompts (
    request_id uuid  NOT NULL PRIMARY KEY,
    input      jsonb NOT NULL,
    prompt     text  GENERATED ALWAYS AS (
        CASE WHEN jsonb_array_length(input -> 'messages') = 1
                  AND jsonb_array_length(input #> '{messages,0,content}') = 1
             THEN input #>> '{messages,0,content,0,text}' END) VIRTUAL,
    parameters jsonb NOT NULL DEFAULT '{}',
    metadata   jsonb,
    CONSTRAINT prompts_input_has_messages CHECK (jsonb_array_length(input -> 'messages') > 0)
) PARTITION BY RANGE (request_id);
COMMENT ON TABLE prompts IS
    'What a request asks: kept outside of the row in requests, so that updates of that row stay small and prompts can '
    'be kept for a different time.';
COMMENT ON COLUMN prompts.input IS 'The messages, in the form of sluice.domain.documents.Input.';
COMMENT ON COLUMN prompts.prompt IS 'The text, if the input is one message with one part; otherwise NULL.';

-- One row per unfinished request, deleted when the request ends. The rows are the outbox, the dispatch windows, the
-- leases and the order of the queue.
CREATE TABLE inflight (
    request_id          uuid        PRIMARY KEY,
    user_id             varchar(50) NOT NULL,
    status              varchar(20) NOT NULL DEFAULT 'queued',
    attempt             smallint    NOT NULL DEFAULT 0,
    max_attempts        smallint    NOT NULL,
    failed_attempts     smallint    NOT NULL DEFAULT 0,
    lost_attempts       smallint    NOT NULL DEFAULT 0,
    last_error          varchar(50),
    dispatched_at       timestamptz,
    not_before          timestamptz,
    lease_until         timestamptz,
    expires_at          timestamptz NOT NULL,
    cancel_requested_at timestamptz,
    CONSTRAINT inflight_status_known CHECK (status IN ('queued', 'processing')),
    CONSTRAINT inflight_processing_has_lease CHECK ((status = 'processing') = (lease_until IS NOT NULL)),
    CONSTRAINT inflight_failed_attempts_in_range
        CHECK (failed_attempts BETWEEN 0 AND max_attempts AND failed_attempts <= attempt),
    CONSTRAINT inflight_lost_attempts_failed CHECK (lost_attempts BETWEEN 0 AND failed_attempts)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
-- Neither index holds a column that a claim changes, so claims stay HOT.
CREATE INDEX inflight_waiting ON inflight (user_id, request_id) WHERE dispatched_at IS NULL;
CREATE INDEX inflight_dispatched ON inflight (user_id) WHERE dispatched_at IS NOT NULL;
COMMENT ON COLUMN inflight.attempt IS
    'Number of the latest attempt, the fencing token: it grows with each claim and each redrive. A settlement must '
    'name the same number.';
COMMENT ON COLUMN inflight.max_attempts IS 'How many attempts may fail before the request itself fails.';
COMMENT ON COLUMN inflight.failed_attempts IS
    'Attempts that failed since the request was submitted or redriven. An attempt that a worker released before '
    'starting it is not counted.';
COMMENT ON COLUMN inflight.lost_attempts IS 'Failed attempts whose lease ran out without an answer from the worker.';
COMMENT ON COLUMN inflight.last_error IS 'Why the last attempt failed; an error_code as in requests.';
COMMENT ON COLUMN inflight.dispatched_at IS
    'When its message was sent, or is about to be. NULL: the request waits for not_before, for room in the dispatch '
    'window, or for the recovery task.';
COMMENT ON COLUMN inflight.cancel_requested_at IS
    'When the request was cancelled while a worker had it: the worker''s answer will be dropped.';

CREATE TABLE idempotency_keys (
    user_id    varchar(50)  NOT NULL REFERENCES users,
    key        varchar(255) NOT NULL,
    body_hash  bytea        NOT NULL,
    request_id uuid         NOT NULL,
    expires_at timestamptz  NOT NULL,
    PRIMARY KEY (user_id, key),
    CONSTRAINT idempotency_keys_body_hash_is_sha256 CHECK (octet_length(body_hash) = 32)
);

-- Results -------------------------------------------------------------------------------------------------------------

-- 5 MB: a Lambda response is at most 6 MB, and escaping in JSON makes the text longer. MAX_RESULT_BYTES sets the usual,
-- smaller limit.
CREATE TABLE results (
    result_id   uuid        NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    request_id  uuid        NOT NULL,
    output      jsonb       NOT NULL,
    content     text        GENERATED ALWAYS AS (output #>> '{items,0,content,0,text}') VIRTUAL,
    token_count integer,
    fingerprint bytea,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT results_output_has_items CHECK (jsonb_typeof(output -> 'items') = 'array'),
    CONSTRAINT results_fit_an_answer CHECK (octet_length(content) <= 5242880),
    CONSTRAINT results_token_count_not_negative CHECK (token_count >= 0)
) PARTITION BY RANGE (result_id);
COMMENT ON COLUMN results.output IS 'The answer, in the form of sluice.domain.documents.Output.';
COMMENT ON COLUMN results.content IS 'The text of the answer''s first item.';
COMMENT ON COLUMN results.fingerprint IS
    'SHA-256 over user, model, parameters and input (sluice.domain.fingerprint): equal for equal questions.';

CREATE TABLE binary_results (
    result_id   uuid         NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    request_id  uuid         NOT NULL,
    content     bytea        NOT NULL,
    mime_type   varchar(100) NOT NULL,
    fingerprint bytea,
    created_at  timestamptz  NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT binary_results_fit_an_answer CHECK (octet_length(content) <= 4194304)
) PARTITION BY RANGE (result_id);
COMMENT ON CONSTRAINT binary_results_fit_an_answer ON binary_results IS '4 MB: base64 makes it a third larger.';

-- Audit ---------------------------------------------------------------------------------------------------------------

CREATE TABLE audit_log (
    audit_id   uuid        NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    xact_id    bigint      NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    actor      varchar(50) NOT NULL,
    action     varchar(50) NOT NULL,
    user_id    varchar(50),
    key_id     uuid,
    request_id uuid,
    before     jsonb,
    after      jsonb,
    invocation uuid        DEFAULT nullif(current_setting('sluice.invocation', true), '')::uuid,
    -- PostgreSQL's first normal transaction id is 3: a smaller one is forged, and would lie below all that is sealed.
    CONSTRAINT audit_log_xact_id_is_real CHECK (xact_id >= 3)
) PARTITION BY RANGE (audit_id);
CREATE INDEX audit_log_user ON audit_log (user_id, audit_id);
-- The rollups and the audit chain ask for transaction ids above the last one that they have read: the rows at the end
-- of the table.
CREATE INDEX audit_log_xact ON audit_log USING brin (xact_id) WITH (pages_per_range = 16, autosummarize = on);
-- A request's rows are written close together, and nearly in the order of request ids.
CREATE INDEX audit_log_request ON audit_log USING brin (request_id) WITH (pages_per_range = 16, autosummarize = on);
-- Finds what a user's own limits were last set to, no matter how many rows were written since.
CREATE INDEX audit_log_quota_changes ON audit_log (user_id, audit_id) WHERE action = 'quota.changed';
COMMENT ON TABLE audit_log IS
    'Every change of a request''s state and every administrative operation. It never holds an e-mail address, a name, '
    'a prompt, a result or a key.';
COMMENT ON COLUMN audit_log.invocation IS
    'For administrative operations, the id of the Lambda invocation: CloudTrail''s data events name the IAM caller of '
    'that invocation.';

CREATE TABLE audit_chain (
    batch_no      bigint      PRIMARY KEY,
    built_at      timestamptz NOT NULL,
    xact_low      bigint      NOT NULL,
    xact_high     bigint      NOT NULL,
    xact_next     bigint      NOT NULL,
    audit_ids     uuid[]      NOT NULL,
    digests       bytea[]     NOT NULL,
    previous_hash bytea       NOT NULL,
    hash          bytea       NOT NULL,
    CONSTRAINT audit_chain_covers_transactions CHECK (xact_low < xact_high AND xact_high <= xact_next),
    CONSTRAINT audit_chain_one_digest_each
        CHECK (cardinality(audit_ids) = cardinality(digests) AND cardinality(audit_ids) > 0),
    CONSTRAINT audit_chain_hashes_are_sha256 CHECK (octet_length(previous_hash) = 32 AND octet_length(hash) = 32)
);
COMMENT ON TABLE audit_chain IS
    'The audit log sealed in batches, in the order of transactions: each hash covers the rows of its batch and the '
    'previous hash.';
COMMENT ON COLUMN audit_chain.xact_high IS
    'The batch holds the rows of the transactions from xact_low up to but not including this one.';
COMMENT ON COLUMN audit_chain.xact_next IS
    'No transaction with this id or a higher one had begun at built_at, so their rows must be newer than that.';

-- Usage and statistics ------------------------------------------------------------------------------------------------

CREATE TABLE usage (
    usage_id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id        varchar(50) NOT NULL REFERENCES users,
    period         varchar(20) NOT NULL,
    period_start   date        NOT NULL,
    period_end     date        NOT NULL,
    requests_count bigint      NOT NULL DEFAULT 0,
    tokens_used    bigint      NOT NULL DEFAULT 0,
    CONSTRAINT usage_user_period_key UNIQUE (user_id, period, period_start),
    CONSTRAINT usage_period_known CHECK (period IN ('daily', 'monthly'))
) WITH (fillfactor = 80);

CREATE TABLE usage_by_model (
    user_id           varchar(50) NOT NULL REFERENCES users,
    model_id          varchar(50) NOT NULL REFERENCES models,
    period            varchar(20) NOT NULL,
    period_start      date        NOT NULL,
    requests_count    bigint      NOT NULL DEFAULT 0,
    prompt_tokens     bigint      NOT NULL DEFAULT 0,
    completion_tokens bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, period, period_start, model_id),
    CONSTRAINT usage_by_model_period_known CHECK (period IN ('daily', 'monthly'))
) WITH (fillfactor = 80);

CREATE TABLE request_stats (
    day                    timestamptz NOT NULL,
    user_id                varchar(50) NOT NULL,
    model_id               varchar(50) NOT NULL,
    request_count          bigint      NOT NULL DEFAULT 0,
    processed_count        bigint      NOT NULL DEFAULT 0,
    processing_time_ms_sum bigint      NOT NULL DEFAULT 0,
    failure_count          bigint      NOT NULL DEFAULT 0,
    avg_processing_time    numeric     GENERATED ALWAYS AS
        (processing_time_ms_sum::numeric / nullif(processed_count, 0)::numeric) VIRTUAL,
    PRIMARY KEY (day, user_id, model_id)
) WITH (fillfactor = 80);

CREATE TABLE rollup_watermarks (
    task       varchar(20) PRIMARY KEY,
    xact_id    bigint      NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN rollup_watermarks.xact_id IS 'The task has read the audit rows of all transactions below this one.';
INSERT INTO rollup_watermarks (task) VALUES ('usage'), ('stats'), ('audit'), ('verify');
