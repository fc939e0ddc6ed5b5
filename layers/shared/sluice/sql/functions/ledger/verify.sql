-- Verification: all invariants of the ledger are checked in one snapshot. The rest of the system promises that there
-- are no violations.
--
-- Scope: with p_full, everything is checked. Otherwise: requests from p_today on (the first id of today in UTC), and
-- those in p_touched (of earlier days, named by the audit log since the last check), the counters of periods that have
-- not ended, and the usage of these days. Each invariant returns at most 100 violations; more would not be worth
-- reading.

CREATE OR REPLACE FUNCTION ledger_verified_to() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT CASE WHEN w.xact_id <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint THEN w.xact_id ELSE 0 END
    FROM rollup_watermarks w WHERE w.task = 'verify';
$$;
COMMENT ON FUNCTION ledger_verified_to() IS
    'The last check without violations has seen every transaction below this one. 0 if that number is impossible (in a '
    'restored database), so that everything is checked.';

CALL define_type('ledger_verification', $$is_full boolean, checked jsonb, violations jsonb, seen_to bigint$$);

-- STABLE: every query in it, and in what it calls, sees the snapshot of the statement that called it, as in a
-- repeatable-read transaction.
CREATE OR REPLACE FUNCTION ledger_verify(p_full boolean) RETURNS ledger_verification
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    today   uuid := uuidv7_floor(period_start('daily', clock_now()));
    since   bigint := ledger_verified_to();
    touched uuid[];
    -- More requests than this (as in the very first check) cost more one by one than checking everything.
    many    constant integer := 20000;
    result  ledger_verification;
BEGIN
    result.seen_to := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    result.is_full := p_full;
    IF NOT p_full THEN
        touched := ARRAY(SELECT DISTINCT a.request_id FROM audit_log a
                         WHERE a.xact_id >= since AND a.request_id < today LIMIT many + 1);
        result.is_full := cardinality(touched) > many;
    END IF;
    result.checked := jsonb_build_object(
        'quotas', (SELECT count(*) FROM quotas q WHERE result.is_full OR q.reset_at > clock_now()),
        'requests', (SELECT count(*) FROM requests_to_verify(result.is_full, today, touched)),
        'inflight', (SELECT count(*) FROM inflight));
    SELECT coalesce(jsonb_agg(to_jsonb(v)), '[]') INTO result.violations FROM (
        SELECT 'plan_is_whole' AS invariant, i.* FROM plan_is_whole() i
        UNION ALL SELECT 'quota_within_limit', i.* FROM quota_within_limit(result.is_full) i
        UNION ALL SELECT 'quota_reserved_is_the_sum', i.* FROM quota_reserved_is_the_sum(result.is_full) i
        UNION ALL SELECT 'quota_used_is_the_sum', i.* FROM quota_used_is_the_sum(result.is_full) i
        UNION ALL SELECT 'budget_within_limit', i.* FROM budget_within_limit(result.is_full) i
        UNION ALL SELECT 'budget_is_the_sum', i.* FROM budget_is_the_sum(result.is_full) i
        UNION ALL SELECT 'usage_is_the_sum', i.* FROM usage_is_the_sum(result.is_full, touched) i
        UNION ALL SELECT 'usage_adds_up', i.* FROM usage_adds_up(result.is_full) i
        UNION ALL SELECT 'keys_add_up', i.* FROM keys_add_up(result.is_full, touched) i
        UNION ALL SELECT 'tags_add_up', i.* FROM tags_add_up(result.is_full, touched) i
        UNION ALL SELECT 'statement_is_kept', i.* FROM statement_is_kept(result.is_full) i
        UNION ALL SELECT 'request_settled_once', i.* FROM request_settled_once(result.is_full, today, touched) i
        UNION ALL SELECT 'request_settled_once', i.* FROM charges_add_up(result.is_full, today, touched) i
        UNION ALL SELECT 'inflight_is_what_is_unfinished', i.*
                  FROM inflight_is_what_is_unfinished(result.is_full, today, touched) i
        UNION ALL SELECT 'inflight_is_what_is_unfinished', i.* FROM followers_have_leaders() i
        UNION ALL SELECT 'result_is_kept', i.* FROM result_is_kept(result.is_full, today, touched) i
        UNION ALL SELECT 'object_is_kept', i.* FROM object_is_kept(result.is_full, today) i
        UNION ALL SELECT 'batch_adds_up', i.* FROM batch_adds_up(result.is_full) i
        UNION ALL SELECT 'result_is_kept', i.* FROM shared_with_its_user(result.is_full, today, touched) i
        UNION ALL SELECT 'rows_as_declared', i.* FROM rows_as_declared(result.is_full, today, touched) i
    ) AS v;
    RETURN result;
END $$;
COMMENT ON FUNCTION ledger_verify(boolean) IS
    'Everything that violates an invariant in one snapshot. is_full: whether everything was checked. checked: how much '
    'was checked. seen_to: all transactions below this one were seen.';

CREATE OR REPLACE FUNCTION ledger_verified(p_seen_to bigint) RETURNS void
    LANGUAGE sql SECURITY DEFINER AS $$
    UPDATE rollup_watermarks w SET xact_id = p_seen_to, updated_at = clock_now() WHERE w.task = 'verify';
$$;
COMMENT ON FUNCTION ledger_verified(bigint) IS
    'Notes that a check found no violation up to this transaction: the next check begins there.';
