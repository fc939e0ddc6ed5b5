-- Retention of idempotency keys: they count for 24 hours. A submission that is repeated later is a new request, whether
-- or not the key was deleted.

CREATE OR REPLACE FUNCTION idempotency_expire(p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    deleted integer;
BEGIN
    -- Submit replaces an expired key under the user lock; a row that it has locked is left for the next run.
    DELETE FROM idempotency_keys k USING (
        SELECT e.user_id, e.key FROM idempotency_keys e
        WHERE e.expires_at <= clock_now() LIMIT p_limit FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE k.user_id = old.user_id AND k.key = old.key AND k.expires_at <= clock_now();
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
COMMENT ON FUNCTION idempotency_expire(integer) IS
    'Deletes expired idempotency keys, at most p_limit of them; returns how many.';
