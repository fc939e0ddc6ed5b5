-- The user lock: the row of quota_plans. It is taken before anything in the user's ledger changes and held until
-- commit. So the code after it needs no further locking: no other transaction submits, settles or recovers for this
-- user meanwhile, and each statement sees what was committed before. Take it in a statement of its own: a statement
-- that also reads would see the state from before it waited for the lock.

CREATE OR REPLACE FUNCTION user_lock(p_user_id text) RETURNS quota_plans
    LANGUAGE plpgsql AS $$
DECLARE
    plan quota_plans;
BEGIN
    SELECT * INTO plan FROM quota_plans p WHERE p.user_id = p_user_id FOR NO KEY UPDATE;
    RETURN plan;
END $$;
COMMENT ON FUNCTION user_lock(text) IS
    'Takes one user''s lock and returns the plan; all of its fields are NULL if there is no such user.';

-- Takes the locks of several users, sorted: every transaction takes them in the same order, so there are no deadlocks.
CREATE OR REPLACE FUNCTION users_lock(p_user_ids text[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM quota_plans p WHERE p.user_id = ANY (p_user_ids) ORDER BY p.user_id FOR NO KEY UPDATE;
END $$;
