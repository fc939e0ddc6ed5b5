-- Budgets: limits in money, reserved and settled like tokens. Whoever changes them holds the user lock. Amounts are in
-- the currency of the price list by which the day of the request is billed, and exact.

CREATE OR REPLACE FUNCTION budget_at(b budgets, p_at timestamptz) RETURNS budgets
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_at >= b.reset_at THEN
        b.amount_used := 0;
        b.amount_reserved := 0;
        b.period_start := period_start(b.quota_period, p_at);
        b.reset_at := period_end(b.quota_period, p_at);
    END IF;
    RETURN b;
END $$;
COMMENT ON FUNCTION budget_at(budgets, timestamptz) IS
    'A budget as it is at the given time: if its period is over, it counts as empty.';

CREATE OR REPLACE FUNCTION budget_applies(b budgets, p_key_id uuid, p_models text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN coalesce(b.key_id = p_key_id, b.key_id IS NULL)
           AND coalesce(b.model_id = ANY (p_models), b.model_id IS NULL);
COMMENT ON FUNCTION budget_applies(budgets, uuid, text[]) IS
    'Whether a budget limits requests with this key (the first of its line of rotations; NULL: without a key) that '
    'these models may answer.';

CREATE OR REPLACE FUNCTION key_original(p_key_id uuid) RETURNS uuid
    LANGUAGE sql STABLE
    RETURN (SELECT coalesce(k.original_key_id, k.key_id) FROM api_keys k WHERE k.key_id = p_key_id);

CALL define_type('budget_share', $$
    request_id uuid, user_id text, key_id uuid, model_id text, created_at timestamptz, is_ended boolean,
    currency text, reserved numeric, used numeric
$$);

-- The most that tokens of a request can cost, whichever of these models answers which of its calls.
CREATE OR REPLACE FUNCTION models_cost_most(
    p_price_list text, p_models text[], p_day date, p_prompt_tokens bigint, p_completion_tokens bigint
)
    RETURNS numeric
    LANGUAGE sql STABLE AS $$
    -- If one of them has no price, there is no upper limit.
    SELECT CASE WHEN count(*) = count(c.prompt + c.completion) THEN max(c.prompt) + max(c.completion) END
    FROM (SELECT tokens_cost_most(p_price_list, m.id, p_day, p_prompt_tokens, 0) AS prompt,
                 tokens_cost_most(p_price_list, m.id, p_day, 0, p_completion_tokens) AS completion
          FROM unnest(p_models) AS m (id)) AS c;
$$;

-- What requests weigh in budgets: reserved is the most that each can cost, used what it did cost. Without a price: 0.
-- Each request has a row without a model, for budgets of all models, and one for each model that may answer it.
CREATE OR REPLACE FUNCTION budget_shares(p_ids uuid[]) RETURNS SETOF budget_share
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
        SELECT r.request_id, r.user_id::text, key_original(r.key_id), w.model_id, r.created_at,
               r.completed_at IS NOT NULL, l.currency::text,
               coalesce(models_cost_most(d.list, CASE WHEN w.model_id IS NULL THEN a.models ELSE ARRAY[w.model_id] END,
                                         t.day, r.reserved_tokens - m.completion, m.completion), 0),
               (SELECT coalesce(sum(tokens_cost(d.list, c.model_id, t.day, c.prompt_tokens, c.completion_tokens,
                                                c.cached_tokens, c.reasoning_tokens, c.cached_answers)), 0)
                FROM request_charges(r.model_id, r.charges, r.prompt_tokens, r.completion_tokens, r.cached_tokens,
                                     r.reasoning_tokens, r.cached_from IS NOT NULL) AS c
                WHERE w.model_id IS NULL OR c.model_id = w.model_id)
        FROM requests_all r
        JOIN prompts p ON p.request_id = r.request_id AND p.request_id = ANY (p_ids)
        CROSS JOIN LATERAL (SELECT request_models(r.model_id, p.handling) AS models) AS a
        CROSS JOIN LATERAL (
            SELECT coalesce((p.parameters->>'max_tokens')::integer, 0)
                   * (1 + request_repairs(p.handling)) AS completion
        ) AS m
        CROSS JOIN LATERAL (SELECT (r.created_at AT TIME ZONE 'UTC')::date AS day) AS t
        CROSS JOIN LATERAL (
            SELECT window_list(billing_list(r.user_id, t.day), r.completion_window, t.day) AS list OFFSET 0) AS d
        CROSS JOIN LATERAL unnest(a.models || NULL::text) AS w (model_id)
        LEFT JOIN price_lists l ON l.price_list = d.list
        WHERE r.request_id = ANY (p_ids);
END $$;

CREATE OR REPLACE FUNCTION budget_counts(b budgets, s budget_share) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN s.user_id = b.user_id AND s.currency = b.currency AND coalesce(b.key_id = s.key_id, b.key_id IS NULL)
           AND s.model_id IS NOT DISTINCT FROM b.model_id
           AND s.created_at >= b.period_start AND s.created_at < b.reset_at;
COMMENT ON FUNCTION budget_counts(budgets, budget_share) IS
    'Whether a budget, in its present period, counts a share of a request.';

-- Whether a request fits into every budget that applies to it; see quota_check(). The key is the request's own.
CREATE OR REPLACE FUNCTION budget_check(
    p_user_id text, p_key_id uuid, p_models text[], p_at timestamptz, p_prompt_tokens integer,
    p_completion_tokens integer, p_cached_answers integer, p_window text, OUT refusal text, OUT detail jsonb,
    OUT counters budgets[]
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    day      date := (p_at AT TIME ZONE 'UTC')::date;
    list     text := window_list(billing_list(p_user_id, day), p_window, day);
    currency text := (SELECT l.currency FROM price_lists l WHERE l.price_list = list);
    needed   numeric;
    b        budgets;
    missing  obstacle;
    longest  obstacle;
    longest_needs numeric;
BEGIN
    FOR b IN
        SELECT * FROM budgets t
        WHERE t.user_id = p_user_id AND budget_applies(t, key_original(p_key_id), p_models)
        ORDER BY t.budget_id
    LOOP
        needed := models_cost_most(list, CASE WHEN b.model_id IS NULL THEN p_models ELSE ARRAY[b.model_id::text] END,
                                   day, p_prompt_tokens, p_completion_tokens)
                  + CASE WHEN p_cached_answers > 0
                         THEN tokens_cost(list, p_models[1], day, 0, 0, 0, 0, p_cached_answers) ELSE 0 END;
        b := budget_at(b, p_at);
        detail := jsonb_build_object('period', b.quota_period, 'currency', b.currency, 'price_list', list,
                                     'maximum', trim_scale(b.max_amount)::text,
                                     'amount_needed', trim_scale(needed)::text);
        -- What cannot be compared with a limit would get past it.
        refusal := CASE WHEN needed IS NULL THEN 'model_unpriced'
                        WHEN currency <> b.currency THEN 'budget_currency_differs'
                        WHEN needed > b.max_amount THEN 'budget_too_small' END;
        IF refusal IS NOT NULL THEN
            RETURN;
        END IF;
        missing := NULL;
        IF b.amount_used + needed > b.max_amount THEN
            missing := ('amount', b.quota_period, b.max_amount, b.amount_used, b.amount_reserved, false,
                        b.reset_at - p_at);
        ELSIF b.amount_used + b.amount_reserved + needed > b.max_amount THEN
            missing := ('amount', b.quota_period, b.max_amount, b.amount_used, b.amount_reserved, true,
                        least(b.reset_at - p_at, reservations_wait(
                            p_user_id, p_at, budget_reservations(b),
                            b.amount_used + b.amount_reserved + needed - b.max_amount)));
        END IF;
        IF missing.wait IS NOT NULL THEN
            longest := obstacle_longer(longest, missing);
            longest_needs := CASE WHEN longest = missing THEN needed ELSE longest_needs END;
        END IF;
        -- An answer from the cache is paid at once: see budget_settle().
        b.amount_reserved := b.amount_reserved + CASE WHEN p_cached_answers > 0 THEN 0 ELSE needed END;
        counters := counters || b;
    END LOOP;
    IF longest.wait IS NOT NULL THEN
        refusal := 'budget_exceeded';
        detail := obstacle_detail(longest, 'budget') || jsonb_build_object(
            'currency', currency, 'amount_needed', trim_scale(longest_needs)::text,
            'quotas', quota_counters(p_user_id, p_at));
    END IF;
END $$;
COMMENT ON FUNCTION budget_check(text, uuid, text[], timestamptz, integer, integer, integer, text) IS
    'p_cached_answers: 1 for a request that is answered from the cache, which has no tokens; otherwise 0. '
    'refusal: model_unpriced, budget_currency_differs, budget_too_small (it can never fit), budget_exceeded (it fits '
    'later: see obstacle_detail), or NULL.';

-- What the unfinished requests of a budget's period have reserved of it.
CREATE OR REPLACE FUNCTION budget_reservations(b budgets) RETURNS reservation[]
    LANGUAGE sql STABLE AS $$
    SELECT array_agg((s.request_id, s.reserved)::reservation)
    FROM budget_shares(ARRAY(SELECT i.request_id FROM inflight i WHERE i.user_id = b.user_id)) AS s
    WHERE budget_counts(b, s);
$$;

-- The latest start of a period in which a budget of the user counts.
CREATE OR REPLACE FUNCTION budgets_counted_from(p_user_id text) RETURNS timestamptz
    LANGUAGE sql STABLE
    RETURN (SELECT max(b.period_start) FROM budgets b WHERE b.user_id = p_user_id);

-- Stores the counters that budget_check() returned.
CREATE OR REPLACE FUNCTION budget_store(p_counters budgets[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE budgets b SET amount_used = n.amount_used, amount_reserved = n.amount_reserved,
           period_start = n.period_start, reset_at = n.reset_at
    FROM unnest(p_counters) AS n WHERE b.budget_id = n.budget_id;
END $$;

-- Books requests that have just ended: in place of what each had reserved, what it cost. With p_sign = -1 the reverse,
-- for a redrive. As with tokens, only budgets whose period still contains the request change.
CREATE OR REPLACE FUNCTION budget_settle(p_ids uuid[], p_sign integer DEFAULT 1) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    -- A counter that has drifted must not keep an answer from being stored: budget_is_the_sum reports it.
    UPDATE budgets b SET amount_reserved = greatest(b.amount_reserved - p_sign * d.reserved, 0),
           amount_used = greatest(b.amount_used + p_sign * d.used, 0)
    FROM (
        SELECT a.budget_id, sum(s.reserved) AS reserved, sum(s.used) AS used
        FROM budget_shares(p_ids) AS s
        JOIN budgets a ON a.user_id = s.user_id AND budget_counts(a, s)
        GROUP BY a.budget_id
    ) AS d
    WHERE b.budget_id = d.budget_id;
END $$;

-- Whether a budget of the request's period has no room for a failed request that is to be queued again.
CREATE OR REPLACE FUNCTION budget_lacks_room(p_request_id uuid) RETURNS boolean
    LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM budget_shares(ARRAY[p_request_id]) AS s
        JOIN budgets b ON b.user_id = s.user_id AND budget_counts(b, s)
        WHERE b.amount_used - s.used + b.amount_reserved + s.reserved > b.max_amount);
$$;

-- The time in which a user's budgets are: never before the periods of the user's other counters, even if the clock was
-- set back (see request_admit).
CREATE OR REPLACE FUNCTION budget_time(p_user_id text) RETURNS timestamptz
    LANGUAGE sql VOLATILE
    RETURN greatest(clock_now(), (SELECT max(q.period_start) FROM quotas q WHERE q.user_id = p_user_id));

CALL define_type('budget_count', $$budget_id uuid, used numeric, reserved numeric$$);

-- What the counters of budgets must be, from the requests of their periods. Requests that have ended are priced in
-- groups: there may be very many.
CREATE OR REPLACE FUNCTION budget_counts_of(p_budgets budgets[]) RETURNS SETOF budget_count
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    b budgets;
BEGIN
    FOREACH b IN ARRAY p_budgets LOOP
        RETURN QUERY
            SELECT b.budget_id, (
                SELECT coalesce(sum(tokens_cost(t.list, g.model_id, g.day, g.prompt_tokens, g.completion_tokens,
                                                g.cached_tokens, g.reasoning_tokens, g.cached_answers)), 0)
                FROM (
                    SELECT (r.created_at AT TIME ZONE 'UTC')::date AS day, c.model_id, r.key_id,
                           sum(c.prompt_tokens)::bigint AS prompt_tokens,
                           sum(c.completion_tokens)::bigint AS completion_tokens,
                           sum(c.cached_tokens)::bigint AS cached_tokens,
                           sum(c.reasoning_tokens)::bigint AS reasoning_tokens,
                           sum(c.cached_answers)::bigint AS cached_answers, r.completion_window
                    FROM requests_all r
                    CROSS JOIN LATERAL request_charges(r.model_id, r.charges, r.prompt_tokens, r.completion_tokens,
                                                       r.cached_tokens, r.reasoning_tokens,
                                                       r.cached_from IS NOT NULL) AS c
                    WHERE r.user_id = b.user_id AND r.request_id >= uuidv7_floor(b.period_start)
                      AND r.request_id < uuidv7_floor(b.reset_at) AND r.completed_at IS NOT NULL
                      AND r.created_at >= b.period_start AND r.created_at < b.reset_at
                      AND (b.model_id IS NULL OR c.model_id = b.model_id)
                    -- A request with tokens of a class that has no price costs nothing: see budget_shares.
                    GROUP BY 1, 2, 3, r.completion_window, c.prompt_tokens > coalesce(c.cached_tokens, 0),
                             c.cached_tokens > 0,
                             c.completion_tokens > coalesce(c.reasoning_tokens, 0), c.reasoning_tokens > 0
                ) AS g
                CROSS JOIN LATERAL (
                    SELECT window_list(billing_list(b.user_id, g.day), g.completion_window, g.day) AS list OFFSET 0
                ) AS t
                WHERE coalesce(b.key_id = key_original(g.key_id), b.key_id IS NULL)
                  AND list_currency(t.list) = b.currency
            ), (
                SELECT coalesce(sum(s.reserved), 0)
                FROM budget_shares(ARRAY(SELECT i.request_id FROM inflight i WHERE i.user_id = b.user_id)) AS s
                WHERE budget_counts(b, s)
            );
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION budget_figures(b budgets) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object(
        'model', b.model_id, 'period', b.quota_period, 'period_start', b.period_start, 'currency', b.currency,
        'amount_used', trim_scale(b.amount_used)::text, 'amount_reserved', trim_scale(b.amount_reserved)::text);

-- Counts budgets from their requests: one that is new, and after the price of a day that has begun was changed. The
-- audit log says which counters changed by that. The caller holds the locks of their users.
CREATE OR REPLACE FUNCTION budgets_recount(p_user_ids text[], p_model_id text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    before budgets[] := ARRAY(
        SELECT c FROM budgets b CROSS JOIN LATERAL budget_at(b, budget_time(b.user_id)) AS c
        WHERE b.user_id = ANY (p_user_ids) AND (p_model_id IS NULL OR coalesce(b.model_id, p_model_id) = p_model_id));
BEGIN
    UPDATE budgets b SET period_start = o.period_start, reset_at = o.reset_at, amount_used = n.used,
           amount_reserved = n.reserved
    FROM unnest(before) AS o JOIN budget_counts_of(before) AS n ON n.budget_id = o.budget_id
    WHERE b.budget_id = o.budget_id;
    PERFORM admin_audit('budget.recounted', b.user_id, b.key_id, budget_figures(o), budget_figures(b))
    FROM unnest(before) AS o JOIN budgets b ON b.budget_id = o.budget_id
    WHERE (o.amount_used, o.amount_reserved) <> (b.amount_used, b.amount_reserved);
END $$;
COMMENT ON FUNCTION budgets_recount(text[], text) IS
    'p_model_id: only budgets that count requests to this model; NULL: all of the users''.';

CREATE OR REPLACE FUNCTION budget_report(p_user_id text, p_at timestamptz) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
               'key_id', n.key_id, 'model', n.model_id, 'period', n.quota_period, 'currency', n.currency,
               'max_amount', trim_scale(n.max_amount)::text, 'amount_used', trim_scale(n.amount_used)::text,
               'amount_reserved', trim_scale(n.amount_reserved)::text, 'period_start', n.period_start,
               'reset_at', n.reset_at)
               ORDER BY n.key_id NULLS FIRST, n.model_id NULLS FIRST,
                        array_position(quota_periods(), n.quota_period::text)), '[]')
    FROM budgets b CROSS JOIN LATERAL budget_at(b, p_at) AS n
    WHERE b.user_id = p_user_id;
$$;
COMMENT ON FUNCTION budget_report(text, timestamptz) IS 'The user''s budgets as they are at the given time.';

CREATE OR REPLACE FUNCTION budget_text(b budgets) RETURNS text
    LANGUAGE sql STABLE
    RETURN concat_ws(' ', b.quota_period, 'budget', 'of key ' || b.key_id, 'of model ' || b.model_id);
