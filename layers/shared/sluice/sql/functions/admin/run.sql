-- The entry point of administration: runs an operation with its arguments in one commit, and has its audit rows name
-- the invocation of AdminFunction that asked for it. The operation user.create is the function
-- admin_user_create(jsonb), and so on: a new operation changes nothing here.

CREATE OR REPLACE FUNCTION admin_run(p_operation text, p_arguments jsonb, p_invocation uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    operation regprocedure := to_regprocedure(format('%I(jsonb)', 'admin_' || replace(p_operation, '.', '_')));
    result    jsonb;
BEGIN
    IF operation IS NULL THEN
        RAISE EXCEPTION 'there is no operation %', p_operation USING ERRCODE = 'undefined_function';
    END IF;
    PERFORM invocation_begin(p_invocation);
    EXECUTE format('SELECT %s($1)', operation::regproc) INTO result USING p_arguments;
    RETURN result;
END $$;
COMMENT ON FUNCTION admin_run(text, jsonb, uuid) IS
    'Returns what the operation changed, in its new state. An operation that is refused raises an error: see '
    'admin_refuse.';

-- From here to the end of the transaction, audit rows name this invocation; NULL: none.
CREATE OR REPLACE FUNCTION invocation_begin(p_invocation uuid) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('sluice.invocation', coalesce(p_invocation::text, ''), true);
END $$;

-- A refused operation is audited too, but only with the ids of a user and a key that exist: the other arguments may
-- contain anything.
CREATE OR REPLACE FUNCTION admin_refused(
    p_operation text, p_code text, p_user_id text, p_key_id uuid, p_invocation uuid
)
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM invocation_begin(p_invocation);
    PERFORM audit_write('admin', ARRAY[ROW(
        'admin.refused', coalesce(u.user_id, k.user_id), k.key_id, NULL, NULL,
        jsonb_build_object('operation', p_operation, 'code', p_code))::audit_entry])
    FROM (SELECT) AS one
    LEFT JOIN users u ON u.user_id = p_user_id
    LEFT JOIN api_keys k ON k.key_id = p_key_id;
END $$;

-- Audits an operation that another Lambda function carries out: a task that an operator starts in RollupFunction.
CREATE OR REPLACE FUNCTION admin_noted(p_action text, p_after jsonb, p_invocation uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM invocation_begin(p_invocation);
    PERFORM audit_write('admin', ARRAY[ROW(p_action, NULL, NULL, NULL, NULL, p_after)::audit_entry]);
END $$;
