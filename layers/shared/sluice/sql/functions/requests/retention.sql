-- Retention of idempotency keys: a key counts until 24 hours after its request has ended (idempotency_counts). A
-- submission that is repeated later is a new request, whether or not the key was deleted.

-- Looks at the keys whose expires_at has passed, and at no others. A key that still counts gets the next time at which
-- it may not. So does the key of a request that failed, for as long as an operator could redrive it: the key of a
-- redriven request counts again. What repeats are recognised by goes at its time: see repeat_find.
CREATE OR REPLACE FUNCTION idempotency_expire(p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at      timestamptz := clock_now();
    looked  integer := 0;
    deleted integer := 0;
    counted integer;
    rows    tid[];
    ids     uuid[];
BEGIN
    LOOP
        -- Submit replaces an expired key under the user lock; a row that it has locked is left for the next run.
        SELECT array_agg(d.ctid), array_agg(d.request_id) INTO rows, ids
        FROM (SELECT e.ctid, e.request_id FROM idempotency_keys e
              WHERE e.expires_at <= at ORDER BY e.expires_at LIMIT least(p_limit - looked, 1000)
              FOR UPDATE SKIP LOCKED) AS d;
        EXIT WHEN rows IS NULL;
        looked := looked + cardinality(rows);
        UPDATE idempotency_keys e
        SET expires_at = interval '24 hours'
                         + CASE WHEN idempotency_counts(r.completed_at) THEN coalesce(r.completed_at, at) ELSE at END
        FROM requests_all r
        WHERE e.ctid = ANY (rows) AND r.request_id = e.request_id AND r.request_id = ANY (ids)
          AND e.key NOT LIKE 'repeat,%'
          AND (idempotency_counts(r.completed_at)
               OR r.status = 'failed' AND EXISTS (SELECT FROM requests q WHERE q.request_id = r.request_id));
        DELETE FROM idempotency_keys e WHERE e.ctid = ANY (rows) AND e.expires_at <= at;
        GET DIAGNOSTICS counted = ROW_COUNT;
        deleted := deleted + counted;
    END LOOP;
    RETURN deleted;
END $$;
COMMENT ON FUNCTION idempotency_expire(integer) IS
    'Deletes idempotency keys that count no longer, looking at p_limit at most; returns how many.';
