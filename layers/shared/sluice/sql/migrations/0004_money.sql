-- min_compatible_version: 1
-- Limits in money, usage by API key and by tag, closed months, and limits that are a user's own one by one.

-- Limits --------------------------------------------------------------------------------------------------------------

ALTER TABLE quotas ADD COLUMN overrides varchar(20)[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN quotas.overrides IS 'Which of the limits are the user''s own and do not follow the tier.';
UPDATE quotas SET overrides = '{max_requests,max_tokens}' WHERE is_override;
ALTER TABLE quota_plans ADD COLUMN overrides varchar(20)[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN quota_plans.overrides IS
    'Which of the plan''s fields are the user''s own and do not follow the tier.';
UPDATE quota_plans SET overrides = '{reset_frequency,max_unfinished,dispatch_window}' WHERE is_override;

-- Budgets: limits in money --------------------------------------------------------------------------------------------

ALTER TABLE quota_plans ADD COLUMN has_budgets boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN quota_plans.has_budgets IS
    'The user has rows in budgets. Without any, a request costs no look-up there.';

ALTER TABLE api_keys ADD COLUMN original_key_id uuid;
COMMENT ON COLUMN api_keys.original_key_id IS
    'Of a key that replaces another (a rotation): the first key of that line, whose budgets are this key''s too.';

CREATE TABLE budgets (
    budget_id       uuid          PRIMARY KEY DEFAULT uuidv7(),
    user_id         varchar(255)  NOT NULL REFERENCES users,
    key_id          uuid          REFERENCES api_keys,
    model_id        varchar(255)  REFERENCES models,
    quota_period    varchar(20)   NOT NULL,
    max_amount      numeric(20, 10) NOT NULL,
    currency        char(3)       NOT NULL,
    amount_used     numeric       NOT NULL DEFAULT 0,
    amount_reserved numeric       NOT NULL DEFAULT 0,
    period_start    timestamptz   NOT NULL,
    reset_at        timestamptz   NOT NULL,
    CONSTRAINT budgets_scope_key UNIQUE NULLS NOT DISTINCT (user_id, key_id, model_id, quota_period),
    CONSTRAINT budgets_period_known CHECK (quota_period IN ('daily', 'monthly')),
    CONSTRAINT budgets_max_amount_not_negative CHECK (max_amount >= 0),
    CONSTRAINT budgets_counters_not_negative CHECK (amount_used >= 0 AND amount_reserved >= 0),
    CONSTRAINT budgets_reset_after_start CHECK (reset_at > period_start)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE budgets IS
    'Limits in money. A row limits the requests of its user that were sent with its key and to its model; NULL: with '
    'any key, to any model. Reset when a request of a later period arrives, or when the budgets are counted again.';
COMMENT ON COLUMN budgets.key_id IS 'A key, or all keys of its line of rotations: see api_keys.original_key_id.';

-- Usage by attribute --------------------------------------------------------------------------------------------------

CREATE TABLE usage_by_attribute (
    user_id           varchar(255) NOT NULL REFERENCES users,
    day               date         NOT NULL,
    attribute         varchar(80)  NOT NULL,
    value             varchar(128),
    model_id          varchar(255) NOT NULL REFERENCES models,
    requests_count    bigint       NOT NULL DEFAULT 0,
    prompt_tokens     bigint       NOT NULL DEFAULT 0,
    completion_tokens bigint       NOT NULL DEFAULT 0,
    CONSTRAINT usage_by_attribute_key UNIQUE NULLS NOT DISTINCT (user_id, day, attribute, value, model_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE usage_by_attribute IS
    'Usage by what distinguishes a user''s requests: the attribute "key" (the API key''s id), and "tag:NAME" for each '
    'member of the metadata.';
COMMENT ON COLUMN usage_by_attribute.value IS
    'NULL: of the key: none (the view submissions). Of a tag: a value that is not kept by itself, because it is long '
    'or because the day has too many; see usage_attribute_values().';
INSERT INTO rollup_watermarks (task) VALUES ('attributes');

-- Statements: months that were closed ---------------------------------------------------------------------------------

CREATE TABLE statements (
    statement_id uuid           PRIMARY KEY DEFAULT uuidv7(),
    user_id      varchar(255)   NOT NULL REFERENCES users,
    month        date           NOT NULL,
    document     jsonb          NOT NULL,
    digest       bytea          NOT NULL,
    closed_at    timestamptz    NOT NULL,
    CONSTRAINT statements_user_month_key UNIQUE (user_id, month),
    CONSTRAINT statements_month_is_a_first_day CHECK (month = date_trunc('month', month)),
    CONSTRAINT statements_digest_is_sha256 CHECK (octet_length(digest) = 32)
);
COMMENT ON TABLE statements IS 'The invoices that were given out: a month of a user that is here is closed.';
COMMENT ON COLUMN statements.document IS 'The invoice as it was given out.';
COMMENT ON COLUMN statements.digest IS 'SHA-256 of the document''s text; the audit row of the closing holds it too.';

CREATE TABLE billed_usage (
    statement_id      uuid         NOT NULL REFERENCES statements,
    user_id           varchar(255) NOT NULL,
    day               date         NOT NULL,
    attribute         varchar(80)  NOT NULL,
    value             varchar(128),
    model_id          varchar(255) NOT NULL,
    price_list        varchar(255),
    requests_count    bigint       NOT NULL,
    prompt_tokens     bigint       NOT NULL,
    completion_tokens bigint       NOT NULL,
    CONSTRAINT billed_usage_key UNIQUE NULLS NOT DISTINCT (statement_id, day, attribute, value, model_id)
);
CREATE INDEX billed_usage_user ON billed_usage (user_id, day);
COMMENT ON TABLE billed_usage IS
    'The usage that each statement has billed: as a whole (the attribute "") and by the values of each attribute. Rows '
    'of days before the statement''s month are adjustments: what became known of a closed month after it was closed, '
    'and may be negative.';

-- Finds the statements in the audit log, no matter how many other rows there are. A partitioned table cannot be indexed
-- concurrently; no row is in this index yet, so it takes only as long as reading the table.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX audit_log_statements ON audit_log (audit_id) WHERE action = 'statement.closed';

CREATE TABLE adjustments_due (
    user_id varchar(255) NOT NULL REFERENCES users,
    month   date         NOT NULL,
    PRIMARY KEY (user_id, month)
);
COMMENT ON TABLE adjustments_due IS
    'Users of whom something became known of a closed month, and the month in which the rollup noticed it.';
