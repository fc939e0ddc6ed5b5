-- The entry point of administration: which operation, with which arguments, in which invocation of AdminFunction; all
-- of it in one commit. The operation user.create is the function admin_user_create(jsonb), and so on: a new operation
-- changes nothing here.

CREATE OR REPLACE FUNCTION admin_run(p_operation text, p_arguments jsonb, p_invocation uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    operation regprocedure := to_regprocedure(format('%I(jsonb)', 'admin_' || replace(p_operation, '.', '_')));
    result    jsonb;
BEGIN
    IF operation IS NULL THEN
        RAISE EXCEPTION 'there is no operation %', p_operation USING ERRCODE = 'undefined_function';
    END IF;
    PERFORM set_config('sluice.invocation', coalesce(p_invocation::text, ''), true);
    EXECUTE format('SELECT %s($1)', operation::regproc) INTO result USING p_arguments;
    RETURN result;
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
