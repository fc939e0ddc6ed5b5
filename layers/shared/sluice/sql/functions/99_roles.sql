-- One role per function of the system, allowed to call what that function needs and nothing else: the SECURITY DEFINER
-- functions are the only door, no role touches a table, but for the few reads named below.

DO $$
DECLARE
    settings constant text[] := ARRAY[
        'timezone=UTC', 'search_path=public', 'jit=off',
        'idle_in_transaction_session_timeout=60s', 'client_connection_check_interval=10s'];
    r record;
    setting text;
    f record;
BEGIN
    FOR r IN SELECT * FROM (VALUES
        -- role, statement_timeout: below its function's own timeout, so that the database gives up first
        ('sluice_submit', '8s', ARRAY['request_create', 'request_cancel', 'request_undispatch']),
        ('sluice_status', '8s', ARRAY['request_show', 'request_history', 'model_offer', 'usage_read']),
        ('sluice_worker', '20s', ARRAY['request_claim', 'request_settle', 'request_undispatch']),
        ('sluice_rollup', '4min', ARRAY['request_sweep', 'request_dispatch', 'request_redispatch', 'request_resend', 'request_undispatch',
                                        'rollup_usage', 'rollup_stats', 'partitions_ensure', 'archive_months',
                                        'idempotency_expire', 'audit_seal', 'audit_verify', 'audit_head', 'audit_chain_since',
                                        'audit_chain_has', 'books_check', 'books_checked', 'books_checked_to']),
        ('sluice_admin', '30s', ARRAY['admin_act', 'admin_refused', 'admin_noted', 'model_set', 'tier_view', 'quota_report',
                                      'usage_report', 'tier_analysis', 'audit_entries', 'request_list'])
        ) AS v (name, statement_timeout, may_call)
    LOOP
        IF to_regrole(r.name) IS NULL THEN
            BEGIN
                -- LOGIN without a password: only IAM can log in as it; others take the role over from the owner.
                EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', r.name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- Roles belong to the whole server: another database's migration made it just now.
            END;
        END IF;
        IF NOT pg_has_role(current_user, r.name, 'SET') THEN
            EXECUTE format('GRANT %I TO %I WITH SET TRUE, INHERIT FALSE', r.name, current_user);
        END IF;
        IF to_regrole('rds_iam') IS NOT NULL AND NOT pg_has_role(r.name, 'rds_iam', 'MEMBER') THEN
            EXECUTE format('GRANT rds_iam TO %I', r.name);
        END IF;
        FOREACH setting IN ARRAY settings || ('statement_timeout=' || r.statement_timeout) LOOP
            EXECUTE format('ALTER ROLE %I IN DATABASE %I SET %I TO %L',
                           r.name, current_database(), split_part(setting, '=', 1), split_part(setting, '=', 2));
        END LOOP;
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', r.name);
        FOR f IN SELECT p.oid::regprocedure AS signature
                 FROM pg_proc p
                 WHERE p.pronamespace = 'public'::regnamespace AND p.proname = ANY (r.may_call) AND p.prosecdef
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f.signature);
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f.signature, r.name);
        END LOOP;
    END LOOP;
END $$;

REVOKE EXECUTE ON FUNCTION submission_insert() FROM PUBLIC;
GRANT SELECT ON users, quota_plans, quotas, model_registry, price_registry, price_lists, tiers, tier_limits, usage
    TO sluice_admin;
GRANT SELECT (key_id, user_id, key_prefix, name, scopes, created_at, expires_at, revoked_at, last_used_at)
    ON api_keys TO sluice_admin;
