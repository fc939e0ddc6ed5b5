-- Administrative acts on tiers and on what single users may do beside them.

-- Brings plans and limits to those of their tiers, except for what is the user's own. The caller holds the gates.
CREATE OR REPLACE FUNCTION plans_follow(of_users text[]) RETURNS integer
    LANGUAGE plpgsql AS $$
DECLARE
    befores jsonb[] := ARRAY(SELECT quota_limits(u.id) FROM unnest(of_users) WITH ORDINALITY AS u (id, n) ORDER BY u.n);
    changes integer;
BEGIN
    UPDATE quota_plans p SET
        reset_frequency = t.reset_frequency, max_unfinished = t.max_unfinished, dispatch_window = t.dispatch_window
    FROM tiers t WHERE t.tier = p.tier AND p.user_id = ANY (of_users) AND NOT p.is_override;
    UPDATE quotas q SET max_requests = l.max_requests, max_tokens = l.max_tokens
    FROM quota_plans p JOIN tier_limits l ON l.tier = p.tier
    WHERE p.user_id = q.user_id AND l.quota_period = q.quota_period AND q.user_id = ANY (of_users) AND NOT q.is_override;
    changes := quotas_changed(of_users, befores);
    RETURN changes;
END $$;

-- An audit row for each user whose plan is not what it was.
CREATE OR REPLACE FUNCTION quotas_changed(of_users text[], befores jsonb[]) RETURNS integer
    LANGUAGE plpgsql AS $$
DECLARE
    changes integer;
BEGIN
    PERFORM audit_act('quota.changed', c.id, NULL, c.before, c.after)
    FROM (SELECT u.id, u.before, quota_limits(u.id) AS after FROM unnest(of_users, befores) AS u (id, before)) AS c
    WHERE c.before IS DISTINCT FROM c.after;
    GET DIAGNOSTICS changes = ROW_COUNT;
    RETURN changes;
END $$;

CREATE OR REPLACE FUNCTION tier_view(name text) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT to_jsonb(t) || jsonb_build_object(
        'limits', (SELECT jsonb_object_agg(l.quota_period, jsonb_build_object('max_requests', l.max_requests, 'max_tokens', l.max_tokens))
                   FROM tier_limits l WHERE l.tier = t.tier),
        'users', (SELECT count(*) FROM quota_plans p WHERE p.tier = t.tier))
    FROM tiers t WHERE t.tier = name;
$$;

-- Makes a tier, or changes what is among the arguments; its users follow in the same commit.
CREATE OR REPLACE FUNCTION act_tier_set(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    name    text := a->>'tier';
    before  jsonb;
    members text[];
    changes integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.tiers'));
    before := tier_view(name);
    IF before IS NULL AND NOT coalesce(a->'limits' ?& '{minute,daily,monthly}', false) THEN
        RAISE EXCEPTION 'limits missing' USING ERRCODE = 'SL422', CONSTRAINT = 'limits_missing';
    END IF;
    INSERT INTO tiers (tier, reset_frequency, max_unfinished, dispatch_window, price_list)
    SELECT name, n.reset_frequency, n.max_unfinished, n.dispatch_window, n.price_list
    FROM jsonb_populate_record(NULL::tiers, coalesce(before, '{"reset_frequency": "monthly", "max_unfinished": 100,
        "dispatch_window": 10, "price_list": "standard"}') || (a - 'limits')) AS n
    ON CONFLICT (tier) DO UPDATE SET
        reset_frequency = EXCLUDED.reset_frequency, max_unfinished = EXCLUDED.max_unfinished,
        dispatch_window = EXCLUDED.dispatch_window, price_list = EXCLUDED.price_list;
    INSERT INTO tier_limits AS l (tier, quota_period, max_requests, max_tokens)
    SELECT name, g.key, (m.limits->>'max_requests')::integer, (m.limits->>'max_tokens')::bigint
    FROM jsonb_each(coalesce(a->'limits', '{}')) AS g
    CROSS JOIN LATERAL (SELECT coalesce(before->'limits'->g.key, '{}') || g.value AS limits) AS m
    ON CONFLICT (tier, quota_period) DO UPDATE SET max_requests = EXCLUDED.max_requests, max_tokens = EXCLUDED.max_tokens;

    members := ARRAY(SELECT p.user_id FROM quota_plans p WHERE p.tier = name ORDER BY p.user_id FOR NO KEY UPDATE);
    changes := plans_follow(members);
    IF before->>'price_list' <> tier_view(name)->>'price_list' THEN
        PERFORM billing_terms_begin(members);
    END IF;
    IF (before - 'users') IS DISTINCT FROM (tier_view(name) - 'users') THEN
        PERFORM audit_act('tier.set', NULL, NULL, before - 'users', tier_view(name) - 'users');
    END IF;
    RETURN tier_view(name) || jsonb_build_object('users_changed', changes);
END $$;

-- What is set for a user is the user's own from then on, and stays when the tier changes.
CREATE OR REPLACE FUNCTION act_quota_set(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id      text := a->>'user_id';
    before  jsonb;
BEGIN
    PERFORM user_lock(id);
    before := quota_limits(id);
    IF a ?| '{reset_frequency,max_unfinished,dispatch_window}' THEN
        UPDATE quota_plans p SET
            reset_frequency = coalesce(a->>'reset_frequency', p.reset_frequency),
            max_unfinished = coalesce((a->>'max_unfinished')::integer, p.max_unfinished),
            dispatch_window = coalesce((a->>'dispatch_window')::integer, p.dispatch_window),
            is_override = true
        WHERE p.user_id = id;
    END IF;
    UPDATE quotas q SET
        max_requests = CASE WHEN g.value ? 'max_requests' THEN (g.value->>'max_requests')::integer ELSE q.max_requests END,
        max_tokens = CASE WHEN g.value ? 'max_tokens' THEN (g.value->>'max_tokens')::bigint ELSE q.max_tokens END,
        is_override = true
    FROM jsonb_each(coalesce(a->'limits', '{}')) AS g
    WHERE q.user_id = id AND q.quota_period = g.key;
    PERFORM quotas_changed(ARRAY[id], ARRAY[before]);
    RETURN quota_report(id);
END $$;

CREATE OR REPLACE FUNCTION act_quota_clear(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id      text := a->>'user_id';
    before  jsonb;
BEGIN
    PERFORM tiers_hold();
    PERFORM user_lock(id);
    before := quota_limits(id);
    UPDATE quotas q SET is_override = false, max_requests = l.max_requests, max_tokens = l.max_tokens
    FROM quota_plans p JOIN tier_limits l ON l.tier = p.tier
    WHERE p.user_id = q.user_id AND l.quota_period = q.quota_period AND q.user_id = id
      AND (jsonb_typeof(a->'periods') IS DISTINCT FROM 'array' OR a->'periods' ? q.quota_period);
    IF jsonb_typeof(a->'periods') IS DISTINCT FROM 'array' THEN
        UPDATE quota_plans p SET is_override = false, reset_frequency = t.reset_frequency,
               max_unfinished = t.max_unfinished, dispatch_window = t.dispatch_window
        FROM tiers t WHERE t.tier = p.tier AND p.user_id = id;
    END IF;
    PERFORM quotas_changed(ARRAY[id], ARRAY[before]);
    RETURN quota_report(id);
END $$;
