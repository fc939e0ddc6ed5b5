-- min_compatible_version: 1
-- The first schema. Rules and reasons: docs/architecture.md; decisions: docs/adr/.
--
-- Conventions: ids that carry time are UUIDv7 made by this database; limits that are NULL mean "unlimited";
-- times are timestamptz, periods are calendar-aligned UTC; names of constraints say what they promise.

CREATE FUNCTION uuidv7_floor(at timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM (at - timestamptz '1970-01-01 00:00:00+00')) * 1000)::bigint), 12, '0')
            || '70008000000000000000')::uuid;
COMMENT ON FUNCTION uuidv7_floor(timestamptz) IS
    'The smallest UUIDv7 of a millisecond: a time filter on a UUIDv7 key compares with it and prunes partitions (RFC 9562, 5.7).';

-- Users, keys, plans ---------------------------------------------------------------------------------------------

CREATE TABLE tiers (
    tier            varchar(20) PRIMARY KEY,
    reset_frequency varchar(20) NOT NULL DEFAULT 'monthly',
    max_unfinished  integer     NOT NULL,
    dispatch_window integer     NOT NULL,
    CONSTRAINT tiers_reset_frequency_known CHECK (reset_frequency IN ('daily', 'monthly')),
    CONSTRAINT tiers_max_unfinished_positive CHECK (max_unfinished > 0),
    CONSTRAINT tiers_dispatch_window_positive CHECK (dispatch_window > 0)
);
COMMENT ON TABLE tiers IS 'What a plan allows; a user''s plan starts as a copy of its tier.';

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
COMMENT ON COLUMN api_keys.key_hash IS 'SHA-256 of the key; the key itself is nowhere.';

CREATE TABLE quota_plans (
    quota_id        integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id         varchar(50) NOT NULL REFERENCES users,
    tier            varchar(20) NOT NULL,
    reset_frequency varchar(20) NOT NULL,
    max_unfinished  integer     NOT NULL,
    dispatch_window integer     NOT NULL,
    CONSTRAINT quota_plans_user_id_key UNIQUE (user_id),
    CONSTRAINT quota_plans_tier_known FOREIGN KEY (tier) REFERENCES tiers,
    CONSTRAINT quota_plans_reset_frequency_known CHECK (reset_frequency IN ('daily', 'monthly')),
    CONSTRAINT quota_plans_max_unfinished_positive CHECK (max_unfinished > 0),
    CONSTRAINT quota_plans_dispatch_window_positive CHECK (dispatch_window > 0)
);
COMMENT ON TABLE quota_plans IS
    'What a user may do. The gate as well: its row is locked before the user''s books change.';
COMMENT ON COLUMN quota_plans.max_unfinished IS 'Most requests of the user that may be unfinished at once.';
COMMENT ON COLUMN quota_plans.dispatch_window IS 'Most requests of the user that are in the queue or at a worker at once.';

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
    -- Three counters change on every request: room on the page keeps those updates HOT.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE quotas IS
    'What is used and reserved, a row per user and period; reset lazily when a request of a later period arrives.';

-- Models and prices ----------------------------------------------------------------------------------------------

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
    CONSTRAINT models_backend_known CHECK (backend IN ('openai', 'bedrock')),
    CONSTRAINT models_openai_has_endpoint CHECK (backend <> 'openai' OR endpoint IS NOT NULL),
    CONSTRAINT models_max_tokens_in_order CHECK (0 < max_tokens_default AND max_tokens_default <= max_tokens_limit),
    CONSTRAINT models_overhead_not_negative CHECK (overhead_tokens >= 0),
    CONSTRAINT models_timeout_positive CHECK (timeout_seconds > 0),
    CONSTRAINT models_default_is_active CHECK (is_active OR NOT is_default)
);
CREATE UNIQUE INDEX models_one_default ON models (is_default) WHERE is_default;
COMMENT ON COLUMN models.overhead_tokens IS
    'Tokens the chat template adds at most: a request''s reservation is its prompt''s bytes + this + max_tokens.';

CREATE TABLE prices (
    price_list        varchar(50)    NOT NULL DEFAULT 'standard',
    model_id          varchar(50)    NOT NULL REFERENCES models,
    token_class       varchar(20)    NOT NULL,
    valid_from        timestamptz    NOT NULL,
    price_per_million numeric(20, 10) NOT NULL,
    currency          char(3)        NOT NULL DEFAULT 'USD',
    PRIMARY KEY (price_list, model_id, token_class, valid_from),
    CONSTRAINT prices_token_class_known CHECK (token_class IN ('prompt', 'completion')),
    CONSTRAINT prices_not_negative CHECK (price_per_million >= 0)
);
COMMENT ON COLUMN prices.valid_from IS 'A price holds from here until the next one of its list, model and class.';

-- Requests -------------------------------------------------------------------------------------------------------

-- Narrow on purpose: two updates a row stay HOT (no index on what changes, room on the page). No foreign keys: a row
-- enters only through request_accept, which has read the user and the model, and a key would block archiving.
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
    CONSTRAINT requests_times_in_order CHECK (started_at >= created_at AND completed_at >= coalesce(started_at, created_at)),
    CONSTRAINT requests_finished_has_time
        CHECK ((status IN ('completed', 'failed', 'cancelled', 'expired')) = (completed_at IS NOT NULL)),
    CONSTRAINT requests_completed_has_result CHECK ((status = 'completed') = (result_id IS NOT NULL)),
    CONSTRAINT requests_failed_has_reason CHECK (status <> 'failed' OR error_code IS NOT NULL),
    CONSTRAINT requests_tokens_not_negative
        CHECK (prompt_tokens >= 0 AND completion_tokens >= 0 AND reserved_tokens >= 0 AND estimated_tokens >= 0),
    CONSTRAINT requests_total_is_the_sum CHECK (total_tokens = prompt_tokens + completion_tokens)
) PARTITION BY RANGE (request_id);
CREATE INDEX requests_user ON requests (user_id, request_id);

CREATE TABLE requests_archive (LIKE requests INCLUDING ALL) PARTITION BY RANGE (request_id);
COMMENT ON TABLE requests_archive IS 'Whole months of requests, moved here by DETACH and ATTACH; see archive_month().';

CREATE VIEW requests_all AS
    SELECT * FROM requests UNION ALL SELECT * FROM requests_archive;
COMMENT ON VIEW requests_all IS 'Every request there is, archived or not.';

CREATE TABLE prompts (
    request_id uuid  NOT NULL PRIMARY KEY,
    prompt     text  NOT NULL,
    parameters jsonb NOT NULL DEFAULT '{}',
    metadata   jsonb,
    CONSTRAINT prompts_prompt_not_empty CHECK (prompt <> '')
) PARTITION BY RANGE (request_id);
COMMENT ON TABLE prompts IS 'What a request asks, apart from its row so that updates of that stay small; own retention.';

-- One row per unfinished request, deleted at settlement: the outbox, the window, the leases and the queue's order.
CREATE TABLE inflight (
    request_id    uuid        PRIMARY KEY,
    user_id       varchar(50) NOT NULL,
    status        varchar(20) NOT NULL DEFAULT 'queued',
    attempt       smallint    NOT NULL DEFAULT 0,
    max_attempts  smallint    NOT NULL,
    priority      smallint    NOT NULL DEFAULT 0,
    dispatched_at timestamptz,
    not_before    timestamptz,
    lease_until   timestamptz,
    expires_at    timestamptz NOT NULL,
    CONSTRAINT inflight_status_known CHECK (status IN ('queued', 'processing')),
    CONSTRAINT inflight_processing_has_lease CHECK ((status = 'processing') = (lease_until IS NOT NULL)),
    CONSTRAINT inflight_attempt_in_range CHECK (attempt BETWEEN 0 AND max_attempts)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
-- Neither index holds a column that a claim changes, so claims stay HOT.
CREATE INDEX inflight_waiting ON inflight (user_id, priority DESC, request_id) WHERE dispatched_at IS NULL;
CREATE INDEX inflight_dispatched ON inflight (user_id) WHERE dispatched_at IS NOT NULL;
COMMENT ON COLUMN inflight.dispatched_at IS
    'When its message was (about to be) sent; NULL: waits for the window, for not_before, or for the sweep.';
COMMENT ON COLUMN inflight.attempt IS 'How often it was claimed; a settlement must name the same number (the fence).';

CREATE TABLE idempotency_keys (
    user_id    varchar(50)  NOT NULL REFERENCES users,
    key        varchar(255) NOT NULL,
    body_hash  bytea        NOT NULL,
    request_id uuid         NOT NULL,
    expires_at timestamptz  NOT NULL,
    PRIMARY KEY (user_id, key),
    CONSTRAINT idempotency_keys_body_hash_is_sha256 CHECK (octet_length(body_hash) = 32)
);

-- Results --------------------------------------------------------------------------------------------------------

-- 5 MB: a Lambda answer holds 6 MB, and JSON escapes cost some; MAX_RESULT_BYTES sets the smaller, usual limit.
CREATE TABLE results (
    result_id    uuid        NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    request_id   uuid        NOT NULL,
    content      text        NOT NULL,
    content_type varchar(20) NOT NULL DEFAULT 'text',
    token_count  integer,
    fingerprint  bytea,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT results_content_type_known CHECK (content_type IN ('text', 'json')),
    CONSTRAINT results_fit_an_answer CHECK (octet_length(content) <= 5242880),
    CONSTRAINT results_token_count_not_negative CHECK (token_count >= 0)
) PARTITION BY RANGE (result_id);
COMMENT ON COLUMN results.fingerprint IS 'SHA-256 over user, model, parameters and prompt: equal where the question was.';

CREATE TABLE binary_results (
    result_id   uuid         NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    request_id  uuid         NOT NULL,
    content     bytea        NOT NULL,
    mime_type   varchar(100) NOT NULL,
    fingerprint bytea,
    created_at  timestamptz  NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT binary_results_fit_an_answer CHECK (octet_length(content) <= 4194304)
) PARTITION BY RANGE (result_id);
COMMENT ON CONSTRAINT binary_results_fit_an_answer ON binary_results IS '4 MB: in base64 it is a third larger.';

-- What request_settle() works on between its statements: one outcome, resolved against its inflight row.
CREATE TYPE settlement AS (
    request_id uuid, attempt smallint, user_id text, outcome text, result_id uuid,
    content text, fingerprint bytea, prompt_tokens integer, completion_tokens integer,
    error_code text, error_message text, retry_after double precision, status_before text
);

-- Audit ----------------------------------------------------------------------------------------------------------

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
    after      jsonb
) PARTITION BY RANGE (audit_id);
CREATE INDEX audit_log_user ON audit_log (user_id, audit_id);
-- Readers in commit order (the rollups) ask for transaction ids above the last they saw: new rows at the table's end.
CREATE INDEX audit_log_xact ON audit_log USING brin (xact_id) WITH (pages_per_range = 16, autosummarize = on);
COMMENT ON TABLE audit_log IS
    'Every change of a request''s state and every administrative act. No e-mail, name, prompt, result or key.';

-- Figures --------------------------------------------------------------------------------------------------------

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
COMMENT ON COLUMN rollup_watermarks.xact_id IS 'Audit rows of transactions below this one are in the figures.';
INSERT INTO rollup_watermarks (task) VALUES ('usage'), ('stats');
