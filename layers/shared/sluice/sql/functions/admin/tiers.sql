-- Administrative operations on tiers.

-- Sets plans and limits to those of their tiers, except for what is a user's own (overrides). The caller holds the
-- user locks.
CREATE OR REPLACE FUNCTION plans_follow(p_user_ids text[]) RETURNS integer
    LANGUAGE plpgsql AS $$
DECLARE
    befores jsonb[] := ARRAY(
        SELECT quota_limits(u.id) FROM unnest(p_user_ids) WITH ORDINALITY AS u (id, n) ORDER BY u.n);
BEGIN
    UPDATE quota_plans p SET
        reset_frequency = CASE WHEN 'reset_frequency' = ANY (plan_overrides(p)) THEN p.reset_frequency
                               ELSE t.reset_frequency END,
        max_unfinished = CASE WHEN 'max_unfinished' = ANY (plan_overrides(p)) THEN p.max_unfinished
                              ELSE t.max_unfinished END,
        dispatch_window = CASE WHEN 'dispatch_window' = ANY (plan_overrides(p)) THEN p.dispatch_window
                               ELSE t.dispatch_window END,
        max_file_bytes = CASE WHEN 'max_file_bytes' = ANY (plan_overrides(p)) THEN p.max_file_bytes
                              ELSE t.max_file_bytes END,
        cache_max_age = t.cache_max_age
    FROM tiers t WHERE t.tier = p.tier AND p.user_id = ANY (p_user_ids);
    UPDATE quotas q SET
        max_requests = CASE WHEN 'max_requests' = ANY (quota_overrides(q)) THEN q.max_requests ELSE l.max_requests END,
        max_tokens = CASE WHEN 'max_tokens' = ANY (quota_overrides(q)) THEN q.max_tokens ELSE l.max_tokens END
    FROM quota_plans p JOIN tier_limits l ON l.tier = p.tier
    WHERE p.user_id = q.user_id AND l.quota_period = q.quota_period AND q.user_id = ANY (p_user_ids);
    RETURN quotas_changed(p_user_ids, befores);
END $$;

-- Writes an audit row for each user whose plan is not the same as before; returns the number of these users.
CREATE OR REPLACE FUNCTION quotas_changed(p_user_ids text[], p_befores jsonb[]) RETURNS integer
    LANGUAGE plpgsql AS $$
DECLARE
    changes integer;
BEGIN
    PERFORM admin_audit('quota.changed', c.id, NULL, c.before, c.after)
    FROM (SELECT u.id, u.before, quota_limits(u.id) AS after FROM unnest(p_user_ids, p_befores) AS u (id, before)) AS c
    WHERE c.before IS DISTINCT FROM c.after;
    GET DIAGNOSTICS changes = ROW_COUNT;
    RETURN changes;
END $$;

-- The users, of those named, who cannot submit anything before one of their periods ends.
CREATE OR REPLACE FUNCTION users_at_limit(p_user_ids text[]) RETURNS text[]
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(DISTINCT s.user_id::text), '{}')
    FROM quotas q CROSS JOIN LATERAL quota_at(q, clock_now()) AS s
    WHERE q.user_id = ANY (p_user_ids)
      AND (s.requests_used >= s.max_requests OR s.tokens_used + s.tokens_reserved >= s.max_tokens);
$$;

-- The limits of a user (quota_limits) or a tier (tier_json) that are lower than before, as text; NULL: none is.
CREATE OR REPLACE FUNCTION limits_lowered(p_before jsonb, p_after jsonb) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT string_agg(format('%s %s instead of %s', l.name, l.new, coalesce(l.old::text, 'unlimited')), ', ')
    FROM (SELECT format('%s %s', p.name, k.kind) AS name,
                 (p_before #>> ARRAY['limits', p.name, 'max_' || k.kind])::bigint AS old,
                 (p_after #>> ARRAY['limits', p.name, 'max_' || k.kind])::bigint AS new
          FROM unnest(quota_periods()) AS p (name) CROSS JOIN (VALUES ('requests'), ('tokens')) AS k (kind)
          UNION ALL
          SELECT f.name, (p_before->>f.name)::bigint, (p_after->>f.name)::bigint
          FROM (VALUES ('max_unfinished'), ('dispatch_window'), ('max_file_bytes')) AS f (name)) AS l
    WHERE l.new < coalesce(l.old, 'infinity'::float8);
$$;

-- What a change of limits took away from a user, for the operator who made it. p_before is quota_limits() before.
CREATE OR REPLACE FUNCTION limits_warnings(p_user_id text, p_before jsonb) RETURNS text[]
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    lower  text := limits_lowered(p_before, quota_limits(p_user_id));
    result text[] := '{}';
BEGIN
    IF lower IS NOT NULL THEN
        result := result || format('%s may use less than before: %s.', p_user_id, lower);
        IF cardinality(users_at_limit(ARRAY[p_user_id])) > 0 THEN
            result := result || format('%s has used as much as the new limits allow, and must wait for the reset.',
                                       p_user_id);
        END IF;
    END IF;
    RETURN result;
END $$;

CREATE OR REPLACE FUNCTION tier_json(p_tier text) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(t) || jsonb_build_object(
        'limits', (SELECT jsonb_object_agg(l.quota_period, jsonb_build_object(
                              'max_requests', l.max_requests, 'max_tokens', l.max_tokens))
                   FROM tier_limits l WHERE l.tier = t.tier),
        'users', (SELECT count(*) FROM quota_plans p WHERE p.tier = t.tier))
    FROM tiers t WHERE t.tier = p_tier;
$$;

CREATE OR REPLACE FUNCTION tier_list(p_tier text DEFAULT NULL) RETURNS SETOF jsonb
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT tier_json(t.tier) FROM tiers t
    LEFT JOIN tier_limits l ON l.tier = t.tier AND l.quota_period = 'monthly'
    WHERE p_tier IS NULL OR t.tier = p_tier
    ORDER BY l.max_tokens NULLS LAST, t.tier;
$$;
COMMENT ON FUNCTION tier_list(text) IS
    'Every tier, or only the one named, with its limits; the smallest monthly token limit first.';

-- Makes a tier, or changes those of its fields that are among the arguments. The plans of its users follow in the same
-- commit.
CREATE OR REPLACE FUNCTION admin_tier_set(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    name    text := a->>'tier';
    before  jsonb;
    after   jsonb;
    members text[];
    changes integer;
    stopped text[];
    warnings text[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.tiers'));
    PERFORM prices_hold();
    before := tier_json(name);
    IF before IS NULL AND NOT coalesce(a->'limits' ?& quota_periods(), false) THEN
        PERFORM admin_refuse('limits_missing');
    END IF;
    INSERT INTO tiers
        (tier, reset_frequency, max_unfinished, dispatch_window, price_list, cache_max_age, max_file_bytes)
    SELECT name, n.reset_frequency, n.max_unfinished, n.dispatch_window, n.price_list, n.cache_max_age,
           n.max_file_bytes
    FROM jsonb_populate_record(NULL::tiers, coalesce(before, '{"reset_frequency": "monthly", "max_unfinished": 100,
        "dispatch_window": 10, "price_list": "standard"}') || (a - 'limits')) AS n
    ON CONFLICT (tier) DO UPDATE SET
        reset_frequency = EXCLUDED.reset_frequency, max_unfinished = EXCLUDED.max_unfinished,
        dispatch_window = EXCLUDED.dispatch_window, price_list = EXCLUDED.price_list,
        cache_max_age = EXCLUDED.cache_max_age, max_file_bytes = EXCLUDED.max_file_bytes;
    INSERT INTO tier_limits AS l (tier, quota_period, max_requests, max_tokens)
    SELECT name, g.key, (m.limits->>'max_requests')::integer, (m.limits->>'max_tokens')::bigint
    FROM jsonb_each(coalesce(a->'limits', '{}')) AS g
    CROSS JOIN LATERAL (SELECT coalesce(before->'limits'->g.key, '{}') || g.value AS limits) AS m
    ON CONFLICT (tier, quota_period) DO UPDATE SET
        max_requests = EXCLUDED.max_requests, max_tokens = EXCLUDED.max_tokens;

    members := ARRAY(SELECT p.user_id FROM quota_plans p WHERE p.tier = name ORDER BY p.user_id);
    PERFORM users_lock(members);
    stopped := users_at_limit(members);
    changes := plans_follow(members);
    stopped := ARRAY(SELECT m.id FROM unnest(users_at_limit(members)) AS m (id) WHERE m.id <> ALL (stopped));
    after := tier_json(name);
    IF before IS NOT NULL AND cardinality(members) > 0 AND limits_lowered(before, after) IS NOT NULL THEN
        warnings := warnings || format('Its %s users may use less than before, except where a limit is their own: %s.',
                                       cardinality(members), limits_lowered(before, after));
    END IF;
    IF cardinality(stopped) > 0 THEN
        warnings := warnings || format('%s of its users have used as much as it allows now, and must wait for the '
                                       'reset: %s%s.', cardinality(stopped), array_to_string(stopped[:5], ', '),
                                       CASE WHEN cardinality(stopped) > 5 THEN ', …' ELSE '' END);
    END IF;
    IF before->>'price_list' <> after->>'price_list' THEN
        PERFORM billing_terms_begin(members);
        IF users_with_other_currency(members) <> '{}' THEN
            warnings := warnings || format('%s of its users have budgets in another currency than their prices now: '
                                           'their requests are refused until the budgets are set again.',
                                           cardinality(users_with_other_currency(members)));
        END IF;
    END IF;
    IF (before - 'users') IS DISTINCT FROM (after - 'users') THEN
        PERFORM admin_audit('tier.set', NULL, NULL, before - 'users', after - 'users');
    END IF;
    RETURN after || jsonb_build_object('users_changed', changes, 'warnings', to_jsonb(warnings));
END $$;
