-- The audit log: append-only. Submit, claim and settle write their rows in statements of their own, all else by
-- audit_write().

CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;

DO $$
DECLARE
    kept text;
BEGIN
    FOREACH kept IN ARRAY '{audit_log,audit_chain,statements,billed_usage}'::text[] LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON %I '
                       'FOR EACH ROW EXECUTE FUNCTION audit_append_only()', kept);
        EXECUTE format('CREATE OR REPLACE TRIGGER audit_never_truncated BEFORE TRUNCATE ON %I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()', kept);
    END LOOP;
END $$;

CALL define_type('audit_entry', $$
    action text, user_id text, key_id uuid, request_id uuid, before jsonb, after jsonb
$$);

-- If there is an invocation, the default of the column invocation fills it in.
CREATE OR REPLACE FUNCTION audit_write(p_actor text, p_entries audit_entry[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_log (actor, action, user_id, key_id, request_id, before, after)
    SELECT p_actor, e.action, e.user_id, e.key_id, e.request_id, e.before, e.after FROM unnest(p_entries) AS e;
END $$;
COMMENT ON FUNCTION audit_write(text, audit_entry[]) IS
    'Appends to the audit log. before and after never hold names, e-mail addresses, hashes, prompts or results.';

CALL define_type('audit_row', $$
    audit_id uuid, at timestamptz, actor text, action text, user_id text, key_id uuid, request_id uuid,
    invocation uuid, before jsonb, after jsonb
$$);

-- For operators, oldest first. The rows of a request are found without reading the request itself, because they may be
-- needed to prove what it was.
CREATE OR REPLACE FUNCTION audit_list(
    p_user_id text, p_request_id uuid, p_action text, p_start timestamptz, p_end timestamptz, p_after uuid,
    p_limit integer
)
    RETURNS SETOF audit_row
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    -- No row about a request is older than its id; one second allows for a difference between the clocks of two
    -- sessions.
    low  uuid := greatest(uuidv7_floor(p_start), p_after, '00000000-0000-0000-0000-000000000000',
                          uuidv7_floor(uuid_extract_timestamp(p_request_id) - interval '1 second'));
    high uuid := coalesce(uuidv7_floor(p_end), 'ffffffff-ffff-ffff-ffff-ffffffffffff');
BEGIN
    RETURN QUERY
        SELECT a.audit_id, a.at, a.actor::text, a.action::text, a.user_id::text, a.key_id, a.request_id, a.invocation,
               a.before, a.after
        FROM audit_log a
        WHERE a.audit_id >= low AND a.audit_id < high AND (p_after IS NULL OR a.audit_id > p_after)
          AND (p_user_id IS NULL OR a.user_id = p_user_id)
          AND (p_request_id IS NULL OR a.request_id = p_request_id)
          AND (p_action IS NULL OR a.action = p_action)
        ORDER BY a.audit_id LIMIT p_limit;
END $$;
