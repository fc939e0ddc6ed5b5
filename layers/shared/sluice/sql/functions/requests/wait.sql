-- Waiting callers: a call that waits holds an environment and its connection for as long, so only half of a role's
-- connections may be used for waiting. Each is an advisory lock, which the session keeps until it ends.

-- The role that a function acts as. With a database of one's own, all log in as one user and then act as their roles.
CREATE OR REPLACE FUNCTION acting_role() RETURNS text
    LANGUAGE sql STABLE
    RETURN coalesce(nullif(current_setting('role'), 'none'), session_user);

CREATE OR REPLACE FUNCTION wait_begin() RETURNS integer
    LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
    SELECT slot
    FROM pg_roles r
    CROSS JOIN LATERAL generate_series(1, CASE WHEN r.rolconnlimit < 0 THEN 10 ELSE r.rolconnlimit / 2 END) AS slot
    WHERE r.rolname = acting_role() AND pg_try_advisory_lock(hashtext('sluice.wait ' || r.rolname), slot)
    LIMIT 1;
$$;
COMMENT ON FUNCTION wait_begin() IS
    'The slot in which the caller may wait, until wait_end(); NULL if half of its role''s connections wait already.';

CREATE OR REPLACE FUNCTION wait_end(p_slot integer) RETURNS boolean
    LANGUAGE sql VOLATILE SECURITY DEFINER
    RETURN pg_advisory_unlock(hashtext('sluice.wait ' || acting_role()), p_slot);
COMMENT ON FUNCTION wait_end(integer) IS 'Lets another caller wait.';
