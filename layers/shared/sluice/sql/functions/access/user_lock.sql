-- The user lock: the row of quota_plans. It is taken before anything in the user's ledger changes and held until
-- commit, so what follows is plain code: no other transaction submits, settles or recovers for this user meanwhile, and
-- each statement sees what was committed before. Take it in a statement of its own: one that also reads would read the
-- state of before it waited.

CREATE OR REPLACE FUNCTION user_lock(p_user_id text) RETURNS quota_plans
    LANGUAGE plpgsql AS $$
DECLARE
    plan quota_plans;
BEGIN
    SELECT * INTO plan FROM quota_plans p WHERE p.user_id = p_user_id FOR NO KEY UPDATE;
    RETURN plan;
END $$;
COMMENT ON FUNCTION user_lock(text) IS 'Takes one user''s lock and returns the plan; all NULL where there is no such user.';

-- Several users, sorted: every transaction takes these locks in the same order, so none waits in a circle.
CREATE OR REPLACE FUNCTION users_lock(p_user_ids text[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM quota_plans p WHERE p.user_id = ANY (p_user_ids) ORDER BY p.user_id FOR NO KEY UPDATE;
END $$;
