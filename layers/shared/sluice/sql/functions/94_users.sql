-- Administrative acts on users and keys. Each gets its arguments as the admin service has validated them, answers with
-- what became of the thing, and writes its audit row in the same commit. admin_act() is the door to them.

-- Audit rows of administrative acts never hold names, addresses or hashes: what changed is told by the field.
CREATE OR REPLACE FUNCTION audit_act(of_action text, of_user text, of_key uuid, before jsonb, after jsonb) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO audit_log (actor, action, user_id, key_id, before, after, invocation)
    VALUES (coalesce(nullif(current_setting('sluice.actor', true), ''), 'admin'), of_action, of_user, of_key, before, after,
            nullif(current_setting('sluice.invocation', true), '')::uuid);
$$;

CREATE OR REPLACE FUNCTION user_view(id text) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('user_id', u.user_id, 'name', u.name, 'email', u.email, 'tier', p.tier,
                              'is_active', u.is_active, 'created_at', u.created_at, 'updated_at', u.updated_at)
    FROM users u LEFT JOIN quota_plans p ON p.user_id = u.user_id
    WHERE u.user_id = id;
$$;

-- The gate of a user's books, which every change of the user takes too: so a refusal is in force when the act has ended.
CREATE OR REPLACE FUNCTION user_lock(id text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM quota_plans p WHERE p.user_id = id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such user' USING ERRCODE = 'SL404', CONSTRAINT = 'user_not_found';
    END IF;
END $$;

-- Who puts a user into a tier takes this first, before any gate, as tier.set takes it alone: a tier that is being changed
-- is followed as it will be.
CREATE OR REPLACE FUNCTION tiers_hold() RETURNS void
    LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock_shared(hashtext('sluice.tiers'));
$$;

-- From this day on (UTC) the user's tokens are billed by the price list of the tier.
CREATE OR REPLACE FUNCTION billing_terms_begin(of_users text[]) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO billing_terms (user_id, valid_from, tier, price_list)
    SELECT p.user_id, (clock_now() AT TIME ZONE 'UTC')::date, t.tier, t.price_list
    FROM quota_plans p JOIN tiers t ON t.tier = p.tier
    WHERE p.user_id = ANY (of_users)
    ON CONFLICT (user_id, valid_from) DO UPDATE SET tier = EXCLUDED.tier, price_list = EXCLUDED.price_list;
$$;

CREATE OR REPLACE FUNCTION act_user_create(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id text := a->>'user_id';
    at timestamptz := clock_now();
BEGIN
    PERFORM tiers_hold();
    INSERT INTO users (user_id, name, email, created_at, updated_at) VALUES (id, a->>'name', a->>'email', at, at);
    INSERT INTO quota_plans (user_id, tier, reset_frequency, max_unfinished, dispatch_window)
    SELECT id, t.tier, t.reset_frequency, t.max_unfinished, t.dispatch_window FROM tiers t WHERE t.tier = a->>'tier';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such tier' USING ERRCODE = 'SL422', CONSTRAINT = 'tier_unknown';
    END IF;
    INSERT INTO quotas (user_id, quota_period, max_requests, max_tokens, period_start, reset_at)
    SELECT id, p.name, l.max_requests, l.max_tokens, period_start(p.name, at), period_end(p.name, at)
    FROM unnest(ARRAY['minute', 'daily', 'monthly']) AS p (name)
    LEFT JOIN tier_limits l ON l.tier = a->>'tier' AND l.quota_period = p.name;
    PERFORM billing_terms_begin(ARRAY[id]);
    PERFORM audit_act('user.created', id, NULL, NULL, jsonb_build_object('tier', a->>'tier'));
    RETURN user_view(id);
END $$;

-- Only what is among the arguments changes; a name or an address of null is taken away.
CREATE OR REPLACE FUNCTION act_user_update(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id     text := a->>'user_id';
    old    users;
    new    users;
    plan   text;
    fields text[];
BEGIN
    PERFORM tiers_hold();
    PERFORM user_lock(id);
    SELECT * INTO old FROM users u WHERE u.user_id = id;
    SELECT p.tier INTO plan FROM quota_plans p WHERE p.user_id = id;
    new := jsonb_populate_record(old, a - 'tier');
    a := jsonb_build_object('tier', plan) || a;
    fields := array_remove(ARRAY[
        CASE WHEN new.name IS DISTINCT FROM old.name THEN 'name' END,
        CASE WHEN new.email IS DISTINCT FROM old.email THEN 'email' END,
        CASE WHEN new.is_active <> old.is_active THEN 'is_active' END,
        CASE WHEN a->>'tier' <> plan THEN 'tier' END], NULL);
    IF cardinality(fields) > 0 THEN
        UPDATE users u SET name = new.name, email = new.email, is_active = new.is_active, updated_at = clock_now()
        WHERE u.user_id = id;
        PERFORM audit_act('user.updated', id, NULL,
                          jsonb_build_object('tier', plan, 'is_active', old.is_active),
                          jsonb_build_object('tier', a->>'tier', 'is_active', new.is_active, 'changed', to_jsonb(fields)));
    END IF;
    IF a->>'tier' <> plan THEN
        UPDATE quota_plans p SET tier = a->>'tier' WHERE p.user_id = id;
        PERFORM plans_follow(ARRAY[id]);
        PERFORM billing_terms_begin(ARRAY[id]);
    END IF;
    RETURN user_view(id);
END $$;

CREATE OR REPLACE FUNCTION key_view(k api_keys) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN to_jsonb(k) - 'key_hash';

CREATE OR REPLACE FUNCTION act_key_create(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    k api_keys;
BEGIN
    PERFORM user_lock(a->>'user_id');
    IF (a->>'expires_at')::timestamptz <= clock_now() THEN
        RAISE EXCEPTION 'in the past' USING ERRCODE = 'SL422', CONSTRAINT = 'expiry_in_past';
    END IF;
    INSERT INTO api_keys (user_id, key_hash, key_prefix, name, scopes, created_at, expires_at)
    VALUES (a->>'user_id', decode(a->>'key_hash', 'hex'), a->>'key_prefix', a->>'name',
            ARRAY(SELECT jsonb_array_elements_text(a->'scopes')), clock_now(), (a->>'expires_at')::timestamptz)
    RETURNING * INTO k;
    PERFORM audit_act('key.created', k.user_id, k.key_id, NULL, jsonb_strip_nulls(jsonb_build_object(
        'key_prefix', k.key_prefix, 'scopes', to_jsonb(k.scopes), 'expires_at', k.expires_at, 'replaces', a->>'replaces')));
    RETURN key_view(k);
END $$;

-- The key, locked behind its user's gate; where it may be dead, whatever state it is in.
CREATE OR REPLACE FUNCTION key_lock(id uuid, may_be_dead boolean) RETURNS api_keys
    LANGUAGE plpgsql AS $$
DECLARE
    k api_keys;
BEGIN
    SELECT * INTO k FROM api_keys a WHERE a.key_id = id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such key' USING ERRCODE = 'SL404', CONSTRAINT = 'key_not_found';
    END IF;
    PERFORM user_lock(k.user_id);
    SELECT * INTO k FROM api_keys a WHERE a.key_id = id FOR NO KEY UPDATE;
    IF NOT may_be_dead AND least(k.revoked_at, k.expires_at) <= clock_now() THEN
        RAISE EXCEPTION 'revoked or expired' USING ERRCODE = 'SL409', CONSTRAINT = 'key_dead';
    END IF;
    RETURN k;
END $$;

CREATE OR REPLACE FUNCTION key_ends(k api_keys, of_action text, at timestamptz) RETURNS api_keys
    LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := jsonb_build_object('expires_at', k.expires_at);
BEGIN
    IF k.expires_at IS DISTINCT FROM at THEN
        UPDATE api_keys a SET expires_at = at WHERE a.key_id = k.key_id RETURNING * INTO k;
        PERFORM audit_act(of_action, k.user_id, k.key_id, before, jsonb_build_object('expires_at', k.expires_at));
    END IF;
    RETURN k;
END $$;

-- A new key like the old one, which goes on until the overlap is over, and no longer than it would have gone on.
CREATE OR REPLACE FUNCTION act_key_rotate(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    old  api_keys := key_lock((a->>'key_id')::uuid, false);
    made jsonb;
BEGIN
    made := act_key_create(jsonb_build_object(
        'user_id', old.user_id, 'name', old.name, 'scopes', to_jsonb(old.scopes), 'key_hash', a->>'key_hash',
        'key_prefix', a->>'key_prefix', 'expires_at', coalesce((a->>'expires_at')::timestamptz, old.expires_at),
        'replaces', old.key_id));
    old := key_ends(old, 'key.rotated',
                    least(old.expires_at, clock_now() + make_interval(secs => (a->>'overlap_seconds')::integer)));
    RETURN made || jsonb_build_object('replaces', key_view(old));
END $$;

CREATE OR REPLACE FUNCTION act_key_expire(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    k api_keys := key_lock((a->>'key_id')::uuid, false);
BEGIN
    IF (a->>'expires_at')::timestamptz <= clock_now() THEN
        RAISE EXCEPTION 'in the past' USING ERRCODE = 'SL422', CONSTRAINT = 'expiry_in_past';
    END IF;
    RETURN key_view(key_ends(k, 'key.expiry_set', (a->>'expires_at')::timestamptz));
END $$;

-- A key that was revoked before keeps its first time.
CREATE OR REPLACE FUNCTION act_key_revoke(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    k api_keys := key_lock((a->>'key_id')::uuid, true);
BEGIN
    IF k.revoked_at IS NULL THEN
        UPDATE api_keys t SET revoked_at = clock_now() WHERE t.key_id = k.key_id RETURNING * INTO k;
        PERFORM audit_act('key.revoked', k.user_id, k.key_id, jsonb_build_object('revoked_at', NULL),
                          jsonb_build_object('revoked_at', k.revoked_at));
    END IF;
    RETURN key_view(k);
END $$;
