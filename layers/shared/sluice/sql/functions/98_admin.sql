-- The door to administration. Which act, with which arguments, in which invocation of AdminFunction; all of it one commit.

CREATE OR REPLACE FUNCTION admin_act(operation text, arguments jsonb, invocation uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('sluice.invocation', coalesce(invocation::text, ''), true);
    RETURN CASE operation
        WHEN 'user.create' THEN act_user_create(arguments)
        WHEN 'user.update' THEN act_user_update(arguments)
        WHEN 'key.create' THEN act_key_create(arguments)
        WHEN 'key.rotate' THEN act_key_rotate(arguments)
        WHEN 'key.expire' THEN act_key_expire(arguments)
        WHEN 'key.revoke' THEN act_key_revoke(arguments)
        WHEN 'tier.set' THEN act_tier_set(arguments)
        WHEN 'quota.set' THEN act_quota_set(arguments)
        WHEN 'quota.clear' THEN act_quota_clear(arguments)
        WHEN 'price.set' THEN act_price_set(arguments)
        WHEN 'request.cancel' THEN act_request_cancel(arguments)
        WHEN 'request.redrive' THEN act_request_redrive(arguments)
        WHEN 'model.set' THEN (SELECT to_jsonb(m) FROM model_set(arguments, 'admin') AS m)
    END;
END $$;
COMMENT ON FUNCTION admin_act(text, jsonb, uuid) IS 'What became of the thing that the act was on; an act that is refused raises.';

-- A refused act leaves a row too, of what exists only: what the caller sent may hold anything.
CREATE OR REPLACE FUNCTION admin_refused(operation text, code text, of_user text, of_key uuid, invocation uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO audit_log (actor, action, user_id, key_id, after, invocation)
    SELECT 'admin', 'admin.refused', coalesce(u.user_id, k.user_id), k.key_id,
           jsonb_build_object('operation', operation, 'code', code), invocation
    FROM (SELECT) AS one
    LEFT JOIN users u ON u.user_id = of_user
    LEFT JOIN api_keys k ON k.key_id = of_key;
$$;

-- An act of which another function does the work: tasks that an operator has RollupFunction run.
CREATE OR REPLACE FUNCTION admin_noted(of_action text, after jsonb, invocation uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO audit_log (actor, action, after, invocation) VALUES ('admin', of_action, after, invocation);
$$;
