-- migration_ledger: make the tables that record migrations and the functions that are installed.
CREATE TABLE IF NOT EXISTS schema_migrations (
    version                integer     PRIMARY KEY,
    name                   text        NOT NULL,
    checksum               text        NOT NULL,
    min_compatible_version integer     NOT NULL,
    applied_at             timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS schema_functions (
    one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- migration_lock: take turns with other migrators until the transaction ends.
SELECT pg_advisory_xact_lock(hashtext('sluice.migrations'));

-- migration_patience: a step that waits longer than this for a lock would hold up everybody behind it.
SELECT set_config('lock_timeout', '5s', true);

-- migration_applied: what was applied, oldest first.
SELECT version, name, checksum, min_compatible_version FROM schema_migrations ORDER BY version;

-- migration_record: write a migration's row, before its DDL and in its transaction.
INSERT INTO schema_migrations (version, name, checksum, min_compatible_version)
VALUES (%(version)s, %(name)s, %(checksum)s, %(min_compatible_version)s);

-- functions_checksum: which functions are installed.
SELECT checksum FROM schema_functions;

-- functions_record: these functions are installed now.
INSERT INTO schema_functions (checksum) VALUES (%(checksum)s)
ON CONFLICT (one) DO UPDATE SET checksum = EXCLUDED.checksum, applied_at = clock_timestamp();

-- server_version: PostgreSQL's version number, 180000 for 18.0.
SELECT current_setting('server_version_num')::integer AS version;

-- tier_seed: a tier as shipped, where no tier has its name.
INSERT INTO tiers (tier, reset_frequency, max_unfinished, dispatch_window)
VALUES (%(tier)s, %(reset_frequency)s, %(max_unfinished)s, %(dispatch_window)s)
ON CONFLICT (tier) DO NOTHING
RETURNING tier;

-- tier_limit_seed: a limit of a tier as shipped.
INSERT INTO tier_limits (tier, quota_period, max_requests, max_tokens)
VALUES (%(tier)s, %(quota_period)s, %(max_requests)s, %(max_tokens)s);

-- model_seed: a model as shipped, where no model has its name.
SELECT model_id FROM model_set(%(description)s, 'migrate')
WHERE NOT EXISTS (SELECT FROM models m WHERE m.model_id = %(description)s->>'model_id');
