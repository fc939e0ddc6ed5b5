-- The entry point of administration: which operation, with which arguments, in which invocation of AdminFunction; all of
-- it in one commit. A new operation changes no signature.

CREATE OR REPLACE FUNCTION admin_run(p_operation text, p_arguments jsonb, p_invocation uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM set_config('sluice.invocation', coalesce(p_invocation::text, ''), true);
    RETURN CASE p_operation
        WHEN 'user.create' THEN admin_user_create(p_arguments)
        WHEN 'user.update' THEN admin_user_update(p_arguments)
        WHEN 'key.create' THEN admin_key_create(p_arguments)
        WHEN 'key.rotate' THEN admin_key_rotate(p_arguments)
        WHEN 'key.expire' THEN admin_key_expire(p_arguments)
        WHEN 'key.revoke' THEN admin_key_revoke(p_arguments)
        WHEN 'tier.set' THEN admin_tier_set(p_arguments)
        WHEN 'quota.set' THEN admin_quota_set(p_arguments)
        WHEN 'quota.clear' THEN admin_quota_clear(p_arguments)
        WHEN 'price.set' THEN admin_price_set(p_arguments)
        WHEN 'model.set' THEN model_set(p_arguments, 'admin')
        WHEN 'request.cancel' THEN admin_request_cancel(p_arguments)
        WHEN 'request.redrive' THEN admin_request_redrive(p_arguments)
    END;
END $$;
COMMENT ON FUNCTION admin_run(text, jsonb, uuid) IS
    'The thing that the operation changed, as it is now; an operation that is refused raises (see admin_refuse).';

-- A refused operation leaves a row too, with the names of existing things only: the rest of what was sent may hold
-- anything.
CREATE OR REPLACE FUNCTION admin_refused(
    p_operation text, p_code text, p_user_id text, p_key_id uuid, p_invocation uuid
)
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM set_config('sluice.invocation', coalesce(p_invocation::text, ''), true);
    PERFORM audit_write('admin', ARRAY[ROW(
        'admin.refused', coalesce(u.user_id, k.user_id), k.key_id, NULL, NULL,
        jsonb_build_object('operation', p_operation, 'code', p_code))::audit_entry])
    FROM (SELECT) AS one
    LEFT JOIN users u ON u.user_id = p_user_id
    LEFT JOIN api_keys k ON k.key_id = p_key_id;
END $$;

-- An operation that another function carries out: tasks that an operator has RollupFunction run.
CREATE OR REPLACE FUNCTION admin_noted(p_action text, p_after jsonb, p_invocation uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM set_config('sluice.invocation', coalesce(p_invocation::text, ''), true);
    PERFORM audit_write('admin', ARRAY[ROW(p_action, NULL, NULL, NULL, NULL, p_after)::audit_entry]);
END $$;
