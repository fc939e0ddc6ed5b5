-- Who may come in.

CREATE OR REPLACE FUNCTION key_check(
    hash bytea, scope text,
    OUT outcome text, OUT key_id uuid, OUT user_id text, OUT is_stale boolean
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    k record;
BEGIN
    SELECT a.key_id, a.user_id, a.revoked_at, a.expires_at, a.scopes, a.last_used_at, u.is_active
    INTO k
    FROM api_keys a JOIN users u ON u.user_id = a.user_id
    WHERE a.key_hash = hash;
    IF NOT FOUND THEN
        outcome := 'key_unknown';
    ELSIF k.revoked_at <= clock_now() THEN
        outcome := 'key_revoked';
    ELSIF k.expires_at <= clock_now() THEN
        outcome := 'key_expired';
    ELSIF NOT k.is_active THEN
        outcome := 'user_inactive';
    ELSIF scope <> ALL (k.scopes) THEN
        outcome := 'scope_missing';
    ELSE
        outcome := 'ok';
        key_id := k.key_id;
        user_id := k.user_id;
        is_stale := k.last_used_at IS NULL OR k.last_used_at < clock_now() - interval '1 minute';
    END IF;
END $$;
COMMENT ON FUNCTION key_check(bytea, text) IS
    'ok with the key''s and user''s ids, or the reason why not: key_unknown, key_revoked, key_expired, user_inactive, '
    'scope_missing. is_stale: its last use was written more than a minute ago (see key_touch).';

-- A key's last use is worth one small write a minute, not one a request: callers ask only where key_check found it
-- stale, and who finds the row locked leaves it to that one.
CREATE OR REPLACE FUNCTION key_touch(used_key_id uuid) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys k SET last_used_at = clock_now()
    FROM (SELECT a.key_id FROM api_keys a WHERE a.key_id = used_key_id FOR UPDATE SKIP LOCKED) AS free
    WHERE k.key_id = free.key_id;
END $$;

-- Both, for those who only read.
CREATE OR REPLACE FUNCTION key_use(hash bytea, scope text, OUT outcome text, OUT user_id text)
    LANGUAGE plpgsql AS $$
DECLARE
    who record := key_check(hash, scope);
BEGIN
    outcome := who.outcome;
    user_id := who.user_id;
    IF who.is_stale THEN
        PERFORM key_touch(who.key_id);
    END IF;
END $$;
