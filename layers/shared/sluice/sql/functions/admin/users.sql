-- Administrative operations on users. Each operation gets arguments that the admin service has validated, returns what
-- it changed in its new state, and writes its audit row in the same commit. admin_run() calls them.

-- Audit rows of administrative operations never hold names, e-mail addresses or hashes: if one of these changes, the
-- row says only which field it was.
CREATE OR REPLACE FUNCTION admin_audit(p_action text, p_user_id text, p_key_id uuid, p_before jsonb, p_after jsonb)
    RETURNS void
    LANGUAGE sql AS $$
    SELECT audit_write(coalesce(nullif(current_setting('sluice.actor', true), ''), 'admin'),
                       ARRAY[ROW(p_action, p_user_id, p_key_id, NULL, p_before, p_after)::audit_entry]);
$$;

-- How an operation refuses: the error carries the code as the name of a constraint. Unlike a message, PostgreSQL never
-- mixes that name with values. SQLSTATE class SL is Sluice's own.
CREATE OR REPLACE FUNCTION admin_refuse(p_code text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'refused: %', p_code USING ERRCODE = 'SL409', CONSTRAINT = p_code;
END $$;

-- Every change of a user or of a user's keys takes the user lock, under which submit checks the key. So once a
-- deactivation or a revocation has returned, no further request of that user or key is accepted.
CREATE OR REPLACE FUNCTION admin_user_lock(p_user_id text) RETURNS quota_plans
    LANGUAGE plpgsql AS $$
DECLARE
    plan quota_plans := user_lock(p_user_id);
BEGIN
    IF plan.user_id IS NULL THEN
        PERFORM admin_refuse('user_not_found');
    END IF;
    RETURN plan;
END $$;

CALL define_type('user_view', $$
    user_id text, name text, email text, tier text, is_active boolean, created_at timestamptz, updated_at timestamptz
$$);

CREATE OR REPLACE FUNCTION user_list(p_after text, p_limit integer, p_user_id text DEFAULT NULL) RETURNS SETOF user_view
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT u.user_id::text, u.name::text, u.email::text, p.tier::text, u.is_active, u.created_at, u.updated_at
    FROM users u LEFT JOIN quota_plans p ON p.user_id = u.user_id
    WHERE u.user_id > p_after AND (p_user_id IS NULL OR u.user_id = p_user_id)
    ORDER BY u.user_id LIMIT p_limit;
$$;
COMMENT ON FUNCTION user_list(text, integer, text) IS
    'Users with their tiers: those after a given id, or only the one named.';

CREATE OR REPLACE FUNCTION user_json(p_user_id text) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(u) FROM user_list('', 1, p_user_id) AS u;
$$;

-- A transaction that puts a user into a tier takes this shared lock first, before any user lock; tier.set takes it
-- exclusively. So a user who joins a tier while it is changed gets the tier as it is after the change.
CREATE OR REPLACE FUNCTION tiers_hold() RETURNS void
    LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock_shared(hashtext('sluice.tiers'));
$$;

-- From today on (UTC) the users' tokens are billed by the price lists of their tiers. The caller holds the user locks.
CREATE OR REPLACE FUNCTION billing_terms_begin(p_user_ids text[]) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO billing_terms (user_id, valid_from, tier, price_list)
    SELECT p.user_id, utc_today(), t.tier, t.price_list
    FROM quota_plans p JOIN tiers t ON t.tier = p.tier
    WHERE p.user_id = ANY (p_user_ids)
    ON CONFLICT (user_id, valid_from) DO UPDATE SET tier = EXCLUDED.tier, price_list = EXCLUDED.price_list;
    SELECT budgets_recount(p_user_ids);
$$;

CREATE OR REPLACE FUNCTION admin_user_create(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id text := a->>'user_id';
    at timestamptz := clock_now();
BEGIN
    PERFORM tiers_hold();
    PERFORM prices_hold();
    INSERT INTO users (user_id, name, email, created_at, updated_at) VALUES (id, a->>'name', a->>'email', at, at);
    INSERT INTO quota_plans
        (user_id, tier, reset_frequency, max_unfinished, dispatch_window, cache_max_age, max_file_bytes)
    SELECT id, t.tier, t.reset_frequency, t.max_unfinished, t.dispatch_window, t.cache_max_age, t.max_file_bytes
    FROM tiers t WHERE t.tier = a->>'tier';
    IF NOT FOUND THEN
        PERFORM admin_refuse('tier_unknown');
    END IF;
    INSERT INTO quotas (user_id, quota_period, max_requests, max_tokens, period_start, reset_at)
    SELECT id, p.name, l.max_requests, l.max_tokens, period_start(p.name, at), period_end(p.name, at)
    FROM unnest(quota_periods()) AS p (name)
    LEFT JOIN tier_limits l ON l.tier = a->>'tier' AND l.quota_period = p.name;
    PERFORM billing_terms_begin(ARRAY[id]);
    PERFORM admin_audit('user.created', id, NULL, NULL, jsonb_build_object('tier', a->>'tier'));
    RETURN user_json(id);
END $$;

-- Changes only the fields that are among the arguments; null removes a name or an e-mail address.
CREATE OR REPLACE FUNCTION admin_user_update(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id     text := a->>'user_id';
    plan   quota_plans;
    old    users;
    new    users;
    new_tier  text;
    fields text[];
    limits jsonb;
    waiting  bigint;
    warnings text[] := '{}';
BEGIN
    PERFORM tiers_hold();
    PERFORM prices_hold();
    plan := admin_user_lock(id);
    limits := quota_limits(id);
    SELECT * INTO old FROM users u WHERE u.user_id = id;
    new := jsonb_populate_record(old, a - 'tier');
    new_tier := coalesce(a->>'tier', plan.tier);
    fields := array_remove(ARRAY[
        CASE WHEN new.name IS DISTINCT FROM old.name THEN 'name' END,
        CASE WHEN new.email IS DISTINCT FROM old.email THEN 'email' END,
        CASE WHEN new.is_active <> old.is_active THEN 'is_active' END,
        CASE WHEN new_tier <> plan.tier THEN 'tier' END], NULL);
    IF cardinality(fields) > 0 THEN
        UPDATE users u SET name = new.name, email = new.email, is_active = new.is_active, updated_at = clock_now()
        WHERE u.user_id = id;
        PERFORM admin_audit('user.updated', id, NULL,
                            jsonb_build_object('tier', plan.tier, 'is_active', old.is_active),
                            jsonb_build_object('tier', new_tier, 'is_active', new.is_active,
                                               'changed', to_jsonb(fields)));
    END IF;
    IF new_tier <> plan.tier THEN
        UPDATE quota_plans p SET tier = new_tier WHERE p.user_id = id;
        PERFORM plans_follow(ARRAY[id]);
        PERFORM billing_terms_begin(ARRAY[id]);
        warnings := limits_warnings(id, limits);
        IF users_with_other_currency(ARRAY[id]) <> '{}' THEN
            warnings := warnings || format('The budgets of %s are in another currency than its prices now: its '
                                           'requests are refused until the budgets are set again.', id);
        END IF;
    END IF;
    SELECT count(*) INTO waiting FROM inflight i WHERE i.user_id = id;
    IF old.is_active AND NOT new.is_active AND waiting > 0 THEN
        warnings := warnings || format('The %s unfinished requests of %s are still processed.', waiting, id);
    END IF;
    RETURN user_json(id) || jsonb_build_object('warnings', to_jsonb(warnings));
END $$;
