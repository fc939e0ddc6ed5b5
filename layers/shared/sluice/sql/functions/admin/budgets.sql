-- Administrative operations on budgets: a user's limits in money. A scope is a user with a key or all keys, and with a
-- model or all models.

CREATE OR REPLACE FUNCTION budget_limits(p_user_id text, p_key_id uuid, p_model_id text) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('model', p_model_id) || coalesce(jsonb_object_agg(
               b.quota_period, jsonb_build_object('max_amount', trim_scale(b.max_amount)::text,
                                                  'currency', b.currency, 'period_start', b.period_start)), '{}')
    FROM budgets b
    WHERE b.user_id = p_user_id AND b.key_id IS NOT DISTINCT FROM p_key_id
      AND b.model_id IS NOT DISTINCT FROM p_model_id;
$$;
COMMENT ON FUNCTION budget_limits(text, uuid, text) IS
    'What the audit row of a changed budget shows: the limits of a scope by period. Like quota_limits, it says in '
    'which period more may be used than a lowered limit allows.';

-- The key of a scope: the first of its line of rotations. Refuses a key that is not the user's, and a model that does
-- not exist.
CREATE OR REPLACE FUNCTION budget_scope(a jsonb) RETURNS uuid
    LANGUAGE plpgsql AS $$
DECLARE
    own_key uuid := key_original((a->>'key_id')::uuid);
BEGIN
    IF a->>'key_id' IS NOT NULL
       AND NOT EXISTS (SELECT FROM api_keys k WHERE k.key_id = own_key AND k.user_id = a->>'user_id') THEN
        PERFORM admin_refuse('key_not_found');
    END IF;
    IF a->>'model_id' IS NOT NULL AND NOT EXISTS (SELECT FROM models m WHERE m.model_id = a->>'model_id') THEN
        PERFORM admin_refuse('model_unknown');
    END IF;
    RETURN own_key;
END $$;

-- Writes the audit row of a scope whose budgets changed, and notes whether the user has any.
CREATE OR REPLACE FUNCTION budgets_changed(p_user_id text, p_key_id uuid, p_model_id text, p_before jsonb) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    after jsonb := budget_limits(p_user_id, p_key_id, p_model_id);
BEGIN
    UPDATE quota_plans p SET has_budgets = EXISTS (SELECT FROM budgets b WHERE b.user_id = p_user_id)
    WHERE p.user_id = p_user_id;
    IF after <> p_before THEN
        PERFORM admin_audit('budget.changed', p_user_id, p_key_id, p_before, after);
    END IF;
END $$;

-- The users, of those named, whose budgets are in another currency than their price list of today: their requests are
-- refused.
CREATE OR REPLACE FUNCTION users_with_other_currency(p_user_ids text[]) RETURNS text[]
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(DISTINCT b.user_id::text), '{}') FROM budgets b
    WHERE b.user_id = ANY (p_user_ids) AND b.currency <> list_currency(billing_list(b.user_id, utc_today()));
$$;

-- Budgets that leave no room, for the operator who set them.
CREATE OR REPLACE FUNCTION budget_warnings(p_user_id text) RETURNS text[]
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(format('The %s of %s %s is used up already, and requests are refused until %s.',
                                     budget_text(b), trim_scale(b.max_amount), b.currency,
                                     to_char(b.reset_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'))), '{}')
    FROM budgets b WHERE b.user_id = p_user_id AND b.amount_used >= b.max_amount;
$$;

-- limits: by period, an amount, or null to remove the limit. A period that is not named stays as it is. The amounts are
-- in the currency of the price list by which the user is billed today.
CREATE OR REPLACE FUNCTION admin_budget_set(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id       text := a->>'user_id';
    at       timestamptz;
    own_key  uuid;
    unit     text;
    before   jsonb;
BEGIN
    PERFORM prices_hold();
    PERFORM admin_user_lock(id);
    at := budget_time(id);
    own_key := budget_scope(a);
    SELECT l.currency INTO unit FROM price_lists l WHERE l.price_list = billing_list(id, utc_today());
    IF unit <> a->>'currency' THEN
        PERFORM admin_refuse('budget_currency_differs');
    END IF;
    before := budget_limits(id, own_key, a->>'model_id');
    DELETE FROM budgets b USING jsonb_each(a->'limits') AS g
    WHERE b.user_id = id AND b.key_id IS NOT DISTINCT FROM own_key AND b.model_id IS NOT DISTINCT FROM a->>'model_id'
      AND b.quota_period = g.key AND g.value = 'null';
    INSERT INTO budgets AS b
        (user_id, key_id, model_id, quota_period, max_amount, currency, period_start, reset_at)
    SELECT id, own_key, a->>'model_id', g.key, g.value::numeric, unit, period_start(g.key, at), period_end(g.key, at)
    FROM jsonb_each_text(a->'limits') AS g WHERE g.value IS NOT NULL
    ON CONFLICT (user_id, key_id, model_id, quota_period) DO UPDATE SET
        max_amount = EXCLUDED.max_amount, currency = EXCLUDED.currency;
    PERFORM budgets_recount(ARRAY[id]);
    PERFORM budgets_changed(id, own_key, a->>'model_id', before);
    RETURN budgets_json(id) || jsonb_build_object('warnings', to_jsonb(budget_warnings(id)));
END $$;

-- Removes the budgets of a scope, or all of the user's.
CREATE OR REPLACE FUNCTION admin_budget_clear(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id      text := a->>'user_id';
    own_key uuid;
    scope   record;
BEGIN
    PERFORM admin_user_lock(id);
    own_key := budget_scope(a);
    FOR scope IN
        SELECT b.key_id, b.model_id, budget_limits(id, b.key_id, b.model_id) AS before
        FROM budgets b
        WHERE b.user_id = id AND ((a->>'is_all')::boolean
              OR b.key_id IS NOT DISTINCT FROM own_key AND b.model_id IS NOT DISTINCT FROM a->>'model_id')
        GROUP BY b.key_id, b.model_id
    LOOP
        DELETE FROM budgets b
        WHERE b.user_id = id AND b.key_id IS NOT DISTINCT FROM scope.key_id
          AND b.model_id IS NOT DISTINCT FROM scope.model_id;
        PERFORM budgets_changed(id, scope.key_id, scope.model_id, scope.before);
    END LOOP;
    RETURN budgets_json(id);
END $$;

CREATE OR REPLACE FUNCTION budgets_json(p_user_id text) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object('user_id', p_user_id, 'budgets', budget_report(p_user_id, clock_now()));
