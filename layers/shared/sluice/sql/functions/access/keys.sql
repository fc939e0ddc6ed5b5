-- Authentication: who owns a key, and what it may do.

-- Why a key may not be used for something; NULL if it may.
CREATE OR REPLACE FUNCTION key_refusal(k api_keys, u users, p_scope text) RETURNS text
    LANGUAGE sql VOLATILE
    RETURN CASE WHEN k.revoked_at <= clock_now() THEN 'key_revoked'
                WHEN k.expires_at <= clock_now() THEN 'key_expired'
                WHEN NOT u.is_active THEN 'user_inactive'
                WHEN p_scope <> ALL (k.scopes) THEN 'scope_missing' END;

CREATE OR REPLACE FUNCTION key_is_stale(k api_keys) RETURNS boolean
    LANGUAGE sql VOLATILE
    RETURN coalesce(k.last_used_at < clock_now() - interval '1 minute', true);

CREATE OR REPLACE FUNCTION key_find(p_key_hash bytea, p_scope text)
    RETURNS TABLE (refusal text, key_id uuid, user_id text, is_stale boolean)
    LANGUAGE sql STABLE AS $$
    SELECT key_refusal(k, u, p_scope), k.key_id, k.user_id::text, key_is_stale(k)
    FROM api_keys k JOIN users u ON u.user_id = k.user_id
    WHERE k.key_hash = p_key_hash;
$$;
COMMENT ON FUNCTION key_find(bytea, text) IS
    'One row, or none; for use in FROM, where PostgreSQL puts it into the query.';

CREATE OR REPLACE FUNCTION key_check(
    p_key_hash bytea, p_scope text, OUT outcome text, OUT key_id uuid, OUT user_id text, OUT is_stale boolean
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    k record;
BEGIN
    SELECT * INTO k FROM key_find(p_key_hash, p_scope);
    outcome := CASE WHEN NOT FOUND THEN 'key_unknown' ELSE coalesce(k.refusal, 'ok') END;
    IF outcome = 'ok' THEN
        key_id := k.key_id;
        user_id := k.user_id;
        is_stale := k.is_stale;
    END IF;
END $$;
COMMENT ON FUNCTION key_check(bytea, text) IS
    'ok with the ids of the key and its user, or the reason why not: key_unknown, key_revoked, key_expired, '
    'user_inactive, scope_missing. is_stale: no use was recorded within the last minute (see key_touch).';

-- Records a key's last use: one small write per minute, not one per request. Callers call it only if key_check said
-- is_stale. A row that another transaction has locked is skipped: that transaction or the next request records the use.
CREATE OR REPLACE FUNCTION key_touch(p_key_id uuid) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys k SET last_used_at = clock_now()
    FROM (SELECT a.key_id FROM api_keys a WHERE a.key_id = p_key_id FOR UPDATE SKIP LOCKED) AS free
    WHERE k.key_id = free.key_id;
END $$;

-- key_check and key_touch in one call, for callers that only read.
CREATE OR REPLACE FUNCTION key_use(p_key_hash bytea, p_scope text, OUT outcome text, OUT user_id text)
    LANGUAGE plpgsql AS $$
DECLARE
    caller record := key_check(p_key_hash, p_scope);
BEGIN
    outcome := caller.outcome;
    user_id := caller.user_id;
    IF caller.is_stale THEN
        PERFORM key_touch(caller.key_id);
    END IF;
END $$;
