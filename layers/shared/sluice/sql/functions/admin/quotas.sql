-- Administrative operations on limits that a user has instead of the tier's.

-- The names among overrides, and the members of what is set, each once.
CREATE OR REPLACE FUNCTION overrides_with(p_overrides varchar[], p_set jsonb) RETURNS varchar[]
    LANGUAGE sql IMMUTABLE
    RETURN ARRAY(SELECT unnest(p_overrides)::text UNION SELECT jsonb_object_keys(p_set) ORDER BY 1)::varchar[];

-- What is set here is the user's own from then on, and stays as it is when the tier changes. Whatever is not set still
-- follows the tier.
CREATE OR REPLACE FUNCTION admin_quota_set(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id     text := a->>'user_id';
    before jsonb;
BEGIN
    PERFORM admin_user_lock(id);
    before := quota_limits(id);
    IF a ?| '{reset_frequency,max_unfinished,dispatch_window,max_file_bytes}' THEN
        UPDATE quota_plans p SET
            reset_frequency = coalesce(a->>'reset_frequency', p.reset_frequency),
            max_unfinished = coalesce((a->>'max_unfinished')::integer, p.max_unfinished),
            dispatch_window = coalesce((a->>'dispatch_window')::integer, p.dispatch_window),
            max_file_bytes = CASE WHEN a ? 'max_file_bytes' THEN (a->>'max_file_bytes')::bigint
                                  ELSE p.max_file_bytes END,
            overrides = overrides_with(plan_overrides(p), a - 'user_id' - 'limits'), is_override = true
        WHERE p.user_id = id;
    END IF;
    UPDATE quotas q SET
        max_requests = CASE WHEN g.value ? 'max_requests' THEN (g.value->>'max_requests')::integer
                            ELSE q.max_requests END,
        max_tokens = CASE WHEN g.value ? 'max_tokens' THEN (g.value->>'max_tokens')::bigint ELSE q.max_tokens END,
        overrides = overrides_with(quota_overrides(q), g.value), is_override = true
    FROM jsonb_each(coalesce(a->'limits', '{}')) AS g
    WHERE q.user_id = id AND q.quota_period = g.key AND g.value <> '{}';
    PERFORM quotas_changed(ARRAY[id], ARRAY[before]);
    RETURN quota_report(id) || jsonb_build_object('warnings', to_jsonb(limits_warnings(id, before)));
END $$;

-- Returns a user to what the tier allows: the limits of the periods named, or all limits and the plan.
CREATE OR REPLACE FUNCTION admin_quota_clear(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id     text := a->>'user_id';
    is_all boolean := jsonb_typeof(a->'periods') IS DISTINCT FROM 'array';
    before jsonb;
BEGIN
    PERFORM tiers_hold();
    PERFORM admin_user_lock(id);
    before := quota_limits(id);
    UPDATE quotas q SET is_override = false, overrides = '{}', max_requests = l.max_requests, max_tokens = l.max_tokens
    FROM quota_plans p JOIN tier_limits l ON l.tier = p.tier
    WHERE p.user_id = q.user_id AND l.quota_period = q.quota_period AND q.user_id = id
      AND (is_all OR a->'periods' ? q.quota_period);
    IF is_all THEN
        UPDATE quota_plans p SET is_override = false, overrides = '{}', reset_frequency = t.reset_frequency,
               max_unfinished = t.max_unfinished, dispatch_window = t.dispatch_window,
               max_file_bytes = t.max_file_bytes
        FROM tiers t WHERE t.tier = p.tier AND p.user_id = id;
    END IF;
    PERFORM quotas_changed(ARRAY[id], ARRAY[before]);
    RETURN quota_report(id) || jsonb_build_object('warnings', to_jsonb(limits_warnings(id, before)));
END $$;
