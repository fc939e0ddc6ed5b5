-- Administrative operations on API keys.

CALL define_type('key_view', $$
    key_id uuid, user_id text, key_prefix text, name text, scopes text[], created_at timestamptz,
    expires_at timestamptz, revoked_at timestamptz, last_used_at timestamptz, models text[],
    cache_max_age integer
$$);

CREATE OR REPLACE FUNCTION key_list(p_user_id text) RETURNS SETOF key_view
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT k.key_id, u.user_id::text, k.key_prefix::text, k.name::text, k.scopes::text[], k.created_at, k.expires_at,
           k.revoked_at, k.last_used_at, k.models::text[], k.cache_max_age
    FROM users u LEFT JOIN api_keys k ON k.user_id = u.user_id
    WHERE u.user_id = p_user_id ORDER BY k.key_id DESC;
$$;
COMMENT ON FUNCTION key_list(text) IS
    'A user''s keys, newest first; one row without a key_id if the user has none, and no row if there is no such user.';

CREATE OR REPLACE FUNCTION key_json(k api_keys) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN to_jsonb(k) - '{key_hash,original_key_id}'::text[];

CREATE OR REPLACE FUNCTION admin_key_create(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    k       api_keys;
    allowed text[];
BEGIN
    PERFORM admin_user_lock(a->>'user_id');
    PERFORM expiry_check((a->>'expires_at')::timestamptz);
    IF jsonb_typeof(a->'models') = 'array' THEN
        allowed := ARRAY(SELECT DISTINCT jsonb_array_elements_text(a->'models') ORDER BY 1);
        IF cardinality(allowed) > (SELECT count(*) FROM models m WHERE m.model_id = ANY (allowed)) THEN
            PERFORM admin_refuse('model_unknown');
        END IF;
    END IF;
    INSERT INTO api_keys
        (user_id, key_hash, key_prefix, name, scopes, created_at, expires_at, original_key_id, models, cache_max_age)
    VALUES (a->>'user_id', decode(a->>'key_hash', 'hex'), a->>'key_prefix', a->>'name',
            ARRAY(SELECT jsonb_array_elements_text(a->'scopes')), clock_now(), (a->>'expires_at')::timestamptz,
            key_original((a->>'replaces')::uuid), allowed, (a->>'cache_max_age')::integer)
    RETURNING * INTO k;
    PERFORM admin_audit('key.created', k.user_id, k.key_id, NULL, jsonb_strip_nulls(jsonb_build_object(
        'key_prefix', k.key_prefix, 'scopes', to_jsonb(k.scopes), 'expires_at', k.expires_at,
        'replaces', a->>'replaces', 'models', to_jsonb(k.models),
        'cache_max_age', k.cache_max_age)));
    RETURN key_json(k);
END $$;

CREATE OR REPLACE FUNCTION expiry_check(p_expires_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF p_expires_at <= clock_now() THEN
        PERFORM admin_refuse('expiry_in_past');
    END IF;
END $$;

-- Locks a key and its user, and returns the key. Refuses a revoked or expired key, unless p_may_be_dead.
CREATE OR REPLACE FUNCTION key_lock(p_key_id uuid, p_may_be_dead boolean) RETURNS api_keys
    LANGUAGE plpgsql AS $$
DECLARE
    k api_keys;
BEGIN
    SELECT * INTO k FROM api_keys a WHERE a.key_id = p_key_id;
    IF NOT FOUND THEN
        PERFORM admin_refuse('key_not_found');
    END IF;
    PERFORM admin_user_lock(k.user_id);
    SELECT * INTO k FROM api_keys a WHERE a.key_id = p_key_id FOR NO KEY UPDATE;
    IF NOT p_may_be_dead AND least(k.revoked_at, k.expires_at) <= clock_now() THEN
        PERFORM admin_refuse('key_dead');
    END IF;
    RETURN k;
END $$;

-- Whether a key of the user, as they are now, works after this time; NULL: a time that never comes.
CREATE OR REPLACE FUNCTION has_key_after(p_user_id text, p_at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN p_at IS NULL OR EXISTS (
        SELECT FROM api_keys o WHERE o.user_id = p_user_id AND o.revoked_at IS NULL
          AND coalesce(o.expires_at, 'infinity') > p_at);

CREATE OR REPLACE FUNCTION key_set_expiry(k api_keys, p_action text, p_expires_at timestamptz) RETURNS api_keys
    LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := jsonb_build_object('expires_at', k.expires_at);
BEGIN
    IF k.expires_at IS DISTINCT FROM p_expires_at THEN
        UPDATE api_keys a SET expires_at = p_expires_at WHERE a.key_id = k.key_id RETURNING * INTO k;
        PERFORM admin_audit(p_action, k.user_id, k.key_id, before, jsonb_build_object('expires_at', k.expires_at));
    END IF;
    RETURN k;
END $$;

-- Makes a new key like the old one. The old one works until the overlap is over, but not longer than it would have
-- worked without the rotation.
CREATE OR REPLACE FUNCTION admin_key_rotate(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    old  api_keys := key_lock((a->>'key_id')::uuid, false);
    made jsonb;
BEGIN
    made := admin_key_create(jsonb_build_object(
        'user_id', old.user_id, 'name', old.name, 'scopes', to_jsonb(old.scopes), 'models', to_jsonb(old.models),
        'cache_max_age', old.cache_max_age,
        'key_hash', a->>'key_hash',
        'key_prefix', a->>'key_prefix', 'expires_at', coalesce((a->>'expires_at')::timestamptz, old.expires_at),
        'replaces', old.key_id));
    old := key_set_expiry(old, 'key.rotated',
                          least(old.expires_at, clock_now() + make_interval(secs => (a->>'overlap_seconds')::integer)));
    RETURN made || jsonb_build_object('replaces', key_json(old));
END $$;

CREATE OR REPLACE FUNCTION admin_key_expire(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    k api_keys := key_lock((a->>'key_id')::uuid, false);
    warnings text[] := '{}';
BEGIN
    PERFORM expiry_check((a->>'expires_at')::timestamptz);
    k := key_set_expiry(k, 'key.expiry_set', (a->>'expires_at')::timestamptz);
    IF NOT has_key_after(k.user_id, k.expires_at) THEN
        warnings := warnings || format('From %s on, %s has no key that works.',
                                       to_char(k.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'), k.user_id);
    END IF;
    RETURN key_json(k) || jsonb_build_object('warnings', to_jsonb(warnings));
END $$;

-- A key that was already revoked keeps the time of its first revocation.
CREATE OR REPLACE FUNCTION admin_key_revoke(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    k api_keys := key_lock((a->>'key_id')::uuid, true);
    warnings text[] := '{}';
BEGIN
    IF k.revoked_at IS NULL THEN
        UPDATE api_keys t SET revoked_at = clock_now() WHERE t.key_id = k.key_id RETURNING * INTO k;
        PERFORM admin_audit('key.revoked', k.user_id, k.key_id, jsonb_build_object('revoked_at', NULL),
                            jsonb_build_object('revoked_at', k.revoked_at));
    END IF;
    IF NOT has_key_after(k.user_id, clock_now()) THEN
        warnings := warnings || format('%s has no key left that works.', k.user_id);
    END IF;
    RETURN key_json(k) || jsonb_build_object('warnings', to_jsonb(warnings));
END $$;
