-- min_compatible_version: 1
-- Price lists with validity dates, terms of billing, overridden plans, and the audit log's hash chain.
--
-- Code of version 1 works on: what it calls keeps its form. model_set and model_registry, which hang on a column that
-- changes here, are made anew by the functions' step that follows.
--
-- prices and tiers hold tens of rows, so that a lock while they are rewritten or scanned is a matter of milliseconds.
-- squawk-ignore-file ban-drop-view, ban-drop-column, changing-column-type
-- squawk-ignore-file constraint-missing-not-valid, adding-foreign-key-constraint
-- An index of a partitioned table cannot be made concurrently; a BRIN or a partial one is one quick pass.
-- squawk-ignore-file require-concurrent-index-creation

-- Prices ---------------------------------------------------------------------------------------------------------

DROP VIEW IF EXISTS model_registry CASCADE;

CREATE TABLE price_lists (
    price_list varchar(50) PRIMARY KEY,
    currency   char(3)     NOT NULL DEFAULT 'USD',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT price_lists_price_list_not_empty CHECK (price_list <> ''),
    CONSTRAINT price_lists_currency_is_iso_4217 CHECK (currency ~ '^[A-Z]{3}$')
);
INSERT INTO price_lists (price_list) VALUES ('standard');
INSERT INTO price_lists (price_list, currency) SELECT p.price_list, min(p.currency) FROM prices p GROUP BY p.price_list
ON CONFLICT (price_list) DO UPDATE SET currency = EXCLUDED.currency;

-- A price holds for whole days: of several on one day the last one does.
DELETE FROM prices p USING prices later
WHERE (later.price_list, later.model_id, later.token_class) = (p.price_list, p.model_id, p.token_class)
  AND later.valid_from > p.valid_from
  AND (later.valid_from AT TIME ZONE 'UTC')::date = (p.valid_from AT TIME ZONE 'UTC')::date;
ALTER TABLE prices
    ALTER COLUMN valid_from TYPE date USING (valid_from AT TIME ZONE 'UTC')::date,
    DROP COLUMN currency,
    ADD CONSTRAINT prices_price_list_known FOREIGN KEY (price_list) REFERENCES price_lists;
COMMENT ON COLUMN prices.valid_from IS
    'A price holds from the start of this day (UTC) until the next one of its list, model and class.';

-- Plans ----------------------------------------------------------------------------------------------------------

ALTER TABLE tiers
    ADD COLUMN price_list varchar(50) NOT NULL DEFAULT 'standard',
    ADD CONSTRAINT tiers_price_list_known FOREIGN KEY (price_list) REFERENCES price_lists;
COMMENT ON COLUMN tiers.price_list IS 'What the tokens of the tier''s users cost.';

ALTER TABLE quota_plans ADD COLUMN is_override boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN quota_plans.is_override IS
    'Its reset_frequency, max_unfinished and dispatch_window are the user''s own and do not follow the tier.';
COMMENT ON COLUMN quota_plans.reset_frequency IS 'The period that the plan is sold by; every period has its limits all the same.';
-- What was changed for a user by hand is the user's own.
UPDATE quotas q SET is_override = true
FROM quota_plans p JOIN tier_limits l ON l.tier = p.tier
WHERE p.user_id = q.user_id AND l.quota_period = q.quota_period
  AND (q.max_requests, q.max_tokens) IS DISTINCT FROM (l.max_requests, l.max_tokens);
UPDATE quota_plans p SET is_override = true
FROM tiers t
WHERE t.tier = p.tier
  AND (p.reset_frequency, p.max_unfinished, p.dispatch_window) <> (t.reset_frequency, t.max_unfinished, t.dispatch_window);
INSERT INTO audit_log (actor, action, user_id, after)
SELECT 'migrate', 'quota.changed', p.user_id, jsonb_build_object(
    'tier', p.tier, 'reset_frequency', p.reset_frequency, 'max_unfinished', p.max_unfinished,
    'dispatch_window', p.dispatch_window, 'is_override', p.is_override,
    'limits', jsonb_object_agg(q.quota_period, jsonb_build_object(
        'max_requests', q.max_requests, 'max_tokens', q.max_tokens, 'is_override', q.is_override, 'period_start', q.period_start)))
FROM quota_plans p JOIN quotas q ON q.user_id = p.user_id
GROUP BY p.quota_id HAVING p.is_override OR bool_or(q.is_override);
COMMENT ON COLUMN quotas.is_override IS 'The limits are the user''s own and do not follow the tier.';

CREATE TABLE billing_terms (
    user_id    varchar(50) NOT NULL REFERENCES users,
    valid_from date        NOT NULL,
    tier       varchar(20) NOT NULL REFERENCES tiers,
    price_list varchar(50) NOT NULL REFERENCES price_lists,
    PRIMARY KEY (user_id, valid_from)
);
COMMENT ON TABLE billing_terms IS
    'By which price list a user''s tokens of a day (UTC) are billed: the latest terms that had begun. So that a change of '
    'the tier today leaves the invoices of yesterday as they are.';
INSERT INTO billing_terms (user_id, valid_from, tier, price_list)
SELECT u.user_id, (u.created_at AT TIME ZONE 'UTC')::date, p.tier, 'standard'
FROM users u JOIN quota_plans p ON p.user_id = u.user_id;

-- Audit ----------------------------------------------------------------------------------------------------------

ALTER TABLE audit_log ADD COLUMN invocation uuid;
COMMENT ON COLUMN audit_log.invocation IS
    'Administrative acts: the id of the Lambda invocation, by which CloudTrail''s data events name the IAM caller.';

-- Not validated: the rows that are there have the ids of real transactions.
ALTER TABLE audit_log ADD CONSTRAINT audit_log_xact_id_is_a_transactions CHECK (xact_id >= 3) NOT VALID;
-- What a user's own limits were set to is found however much was written since.
CREATE INDEX audit_log_quota_changes ON audit_log (user_id, audit_id) WHERE action = 'quota.changed';
-- A request's rows are written close together, and in the order of requests, nearly.
CREATE INDEX audit_log_request ON audit_log USING brin (request_id) WITH (pages_per_range = 16, autosummarize = on);

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
    CONSTRAINT audit_chain_one_digest_each CHECK (cardinality(audit_ids) = cardinality(digests) AND cardinality(audit_ids) > 0),
    CONSTRAINT audit_chain_hashes_are_sha256 CHECK (octet_length(previous_hash) = 32 AND octet_length(hash) = 32)
);
COMMENT ON TABLE audit_chain IS
    'The audit log in the order of its commits, sealed batch by batch: each hash covers the batch''s rows and the hash before.';
COMMENT ON COLUMN audit_chain.xact_high IS 'The batch holds the rows of the transactions from xact_low up to, not including, this one.';
COMMENT ON COLUMN audit_chain.xact_next IS 'No transaction of this id or a later one had begun at built_at: what they wrote is younger.';

INSERT INTO rollup_watermarks (task) VALUES ('audit'), ('verify');
