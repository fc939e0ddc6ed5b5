-- Database roles: one for each Lambda function, which may call that function's entry points but has no right on any
-- table; and sluice_definer, with whose rights the entry points run. It does not own the tables, so that a row-level
-- policy applies to it.

CREATE OR REPLACE PROCEDURE role_ensure(p_name text, p_options text)
    LANGUAGE plpgsql AS $$
BEGIN
    IF to_regrole(p_name) IS NULL THEN
        BEGIN
            EXECUTE format('CREATE ROLE %I %s', p_name, p_options);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- Roles belong to the whole server: the migration of another database has just made this one.
        END;
    END IF;
END $$;

-- sluice_definer ------------------------------------------------------------------------------------------------------

CALL role_ensure('sluice_definer', 'NOLOGIN NOINHERIT');
-- The owner of the schema needs this role's rights, to replace the functions that this role owns and to give it new
-- ones.
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'sluice_definer', 'USAGE')
       OR NOT pg_has_role(current_user, 'sluice_definer', 'SET')
    THEN
        EXECUTE format('GRANT sluice_definer TO %I WITH INHERIT TRUE, SET TRUE', current_user);
    END IF;
END $$;
GRANT USAGE ON SCHEMA sluice TO sluice_definer;
GRANT SELECT ON ALL TABLES IN SCHEMA sluice TO sluice_definer;
REVOKE ALL ON schema_migrations, schema_functions FROM sluice_definer;
GRANT INSERT, UPDATE ON
    users, api_keys, tiers, tier_limits, quota_plans, quotas, billing_terms, models, model_aliases, prices,
    price_lists, requests, inflight, idempotency_keys, budgets, usage, usage_by_model, usage_by_attribute,
    adjustments_due, request_stats, rollup_watermarks, model_breakers,
    answer_cache, answer_sizes, forecast_stats, objects, webhook_endpoints, webhook_events, window_lists,
    window_stats, dispatch_capacity, files, uploads, upload_parts, batches, batch_lines
    TO sluice_definer;
GRANT INSERT ON prompts, results, binary_results, attempts, audit_log, audit_chain, statements, billed_usage,
    webhook_deliveries
    TO sluice_definer;
-- A redrive takes back what its attempts were charged.
GRANT UPDATE (is_charged) ON attempts TO sluice_definer;
-- What a request asked and was answered can be erased.
GRANT UPDATE (input, parameters, surface, erased_at) ON prompts TO sluice_definer;
GRANT UPDATE (output, fingerprint) ON results TO sluice_definer;
GRANT UPDATE (content) ON binary_results TO sluice_definer;
GRANT UPDATE ON object_sweep TO sluice_definer;
GRANT DELETE ON inflight, idempotency_keys, budgets, adjustments_due, model_aliases, model_breakers,
    answer_cache, objects, webhook_endpoints, webhook_events, upload_parts, batch_lines TO sluice_definer;

-- Entry points run with the rights of sluice_definer, and find names only in the schema sluice. Entry points that
-- change the schema remain the property of the schema's owner.
DO $$
DECLARE
    entry record;
BEGIN
    -- A role must have the right to create in the schema at the moment when it is made the owner of a function.
    GRANT CREATE ON SCHEMA sluice TO sluice_definer;
    FOR entry IN
        SELECT p.oid::regprocedure AS signature, p.proname AS name
        FROM pg_proc p WHERE p.pronamespace = 'sluice'::regnamespace AND p.prosecdef
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = sluice, pg_temp', entry.signature);
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', entry.signature);
        IF entry.name NOT IN ('partitions_ensure', 'archive_months') THEN
            EXECUTE format('ALTER FUNCTION %s OWNER TO sluice_definer', entry.signature);
        END IF;
    END LOOP;
    REVOKE CREATE ON SCHEMA sluice FROM sluice_definer;
END $$;

-- The functions' roles ------------------------------------------------------------------------------------------------

DO $$
DECLARE
    settings constant text[] := ARRAY[
        'timezone=UTC', 'search_path=sluice', 'jit=off',
        'idle_in_transaction_session_timeout=60s', 'client_connection_check_interval=10s'];
    r record;
    setting text;
    idle text;
    entry record;
BEGIN
    FOR r IN SELECT * FROM (VALUES
        -- role, statement_timeout (shorter than the timeout of the Lambda function, so that the database gives up
        -- first), entry points
        ('sluice_submit', '8s', ARRAY['request_submit', 'request_cancel', 'request_undispatch', 'request_show',
                                      'request_ended', 'wait_begin', 'wait_end', 'cache_purge', 'request_quote']),
        ('sluice_status', '8s', ARRAY['request_show', 'result_read', 'request_ended', 'wait_begin', 'wait_end',
                                      'request_history', 'request_history_v2', 'model_offers', 'usage_show',
                                      'usage_show_v2', 'usage_show_v3']),
        ('sluice_openai', '8s', ARRAY['request_run', 'request_submit', 'request_quote', 'request_settle',
                                      'request_undispatch', 'request_detail', 'result_read', 'request_ended',
                                      'request_cancel', 'request_erase', 'model_offers', 'webhook_manage',
                                      'webhook_test', 'webhook_settle', 'batch_manage', 'file_manage',
                                      'upload_manage']),
        ('sluice_worker', '20s', ARRAY['request_claim', 'request_settle', 'request_undispatch']),
        ('sluice_foreground', '20s', ARRAY['request_settle', 'request_undispatch']),
        ('sluice_webhooks', '8s', ARRAY['webhook_claim', 'webhook_settle']),
        ('sluice_batches', '60s', ARRAY['batch_claim', 'batch_scan', 'batch_unreadable', 'batch_next_lines',
                                        'batch_feed', 'batch_cancel_waiting', 'batch_put_back', 'batch_finalize',
                                        'batch_results', 'batch_finish', 'file_stored', 'request_undispatch']),
        ('sluice_rollup', '4min', ARRAY['request_recover', 'request_dispatch', 'request_redispatch', 'request_resend',
                                        'request_undispatch', 'rollup_usage', 'rollup_stats',
                                        'statements_due', 'statement_show', 'statement_show_v2', 'statement_close',
                                        'statement_skip',
                                        'partitions_ensure',
                                        'archive_months', 'idempotency_expire', 'cache_expire', 'audit_seal',
                                        'audit_verify',
                                        'audit_head', 'audit_chain_since', 'audit_chain_has', 'ledger_verify',
                                        'ledger_verified', 'ledger_verified_to', 'objects_doomed',
                                        'objects_forget', 'object_sweep_begin', 'objects_compare',
                                        'webhook_recover', 'webhook_expire', 'batches_due',
                                        'batch_lines_expire', 'files_expire']),
        ('sluice_admin', '30s', ARRAY['admin_run', 'admin_refused', 'admin_noted', 'user_list', 'key_list', 'tier_list',
                                      'quota_report', 'price_list', 'price_list_exists', 'model_list', 'alias_list',
                                      'request_list', 'usage_report', 'usage_report_v2', 'usage_report_v3',
                                      'statement_show', 'statement_show_v2', 'statement_close', 'tier_analysis',
                                      'calibration_report', 'price_windows', 'window_report',
                                      'audit_list', 'webhook_list', 'webhook_event_list', 'batch_list'])
        ) AS v (name, statement_timeout, may_call)
    LOOP
        -- LOGIN without a password: only IAM can log in as this role. Without IAM, a connection logs in as the owner
        -- and then switches to this role.
        -- How many connections each may have is set by sluice.db.connection_limits, from the template's parameters.
        CALL role_ensure(r.name, 'LOGIN NOINHERIT');
        IF NOT pg_has_role(current_user, r.name, 'SET') THEN
            EXECUTE format('GRANT %I TO %I WITH SET TRUE, INHERIT FALSE', r.name, current_user);
        END IF;
        IF to_regrole('rds_iam') IS NOT NULL AND NOT pg_has_role(r.name, 'rds_iam', 'MEMBER') THEN
            EXECUTE format('GRANT rds_iam TO %I', r.name);
        END IF;
        -- A frozen environment keeps its connection until the server ends the session. What callers leave behind is
        -- free again soon; the worker and the scheduled tasks keep theirs from one run to the next.
        idle := CASE WHEN r.name IN ('sluice_worker', 'sluice_rollup') THEN '2min' ELSE '15s' END;
        FOREACH setting IN ARRAY settings
            || ARRAY['statement_timeout=' || r.statement_timeout, 'idle_session_timeout=' || idle]
        LOOP
            EXECUTE format('ALTER ROLE %I IN DATABASE %I SET %I TO %L',
                           r.name, current_database(), split_part(setting, '=', 1), split_part(setting, '=', 2));
        END LOOP;
        EXECUTE format('GRANT USAGE ON SCHEMA sluice TO %I', r.name);
        FOR entry IN SELECT p.oid::regprocedure AS signature
                     FROM pg_proc p
                     WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname = ANY (r.may_call) AND p.prosecdef
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', entry.signature, r.name);
        END LOOP;
    END LOOP;
END $$;
