-- What was used, and what it cost. Cost is not stored: it is computed from the token counts, the user's terms of
-- billing on that day and the price list, so that a past month can be priced again by another list.

CALL define_type('priced_usage', $$
    day date, model_id text, requests_count bigint, token_class text, tokens bigint, price_list text, currency text,
    price_per_million numeric, value text, completion_window text
$$);

-- p_attribute: NULL for usage as a whole; see attribute_usage_now().
CREATE OR REPLACE FUNCTION usage_priced(
    p_user_id text, p_first_day date, p_last_day date, p_price_list text, p_attribute text
)
    RETURNS SETOF priced_usage
    LANGUAGE sql STABLE AS $$
    SELECT u.day, u.model_id, u.requests_count, c.token_class, c.tokens, t.list, l.currency::text,
           c.price_per_million, u.value, u.completion_window
    FROM (
        SELECT n.day, n.model_id, NULL::text AS value, n.requests_count, n.prompt_tokens, n.completion_tokens,
               n.cached_tokens, n.reasoning_tokens, n.cached_answers, n.completion_window
        FROM usage_now(p_user_id, p_first_day, p_last_day) AS n
        WHERE p_attribute IS NULL
        UNION ALL
        SELECT n.day, n.model_id, n.value, n.requests_count, n.prompt_tokens, n.completion_tokens, n.cached_tokens,
               n.reasoning_tokens, n.cached_answers, n.completion_window
        FROM attribute_usage_now(p_user_id, p_first_day, p_last_day, p_attribute) AS n
        WHERE p_attribute IS NOT NULL
    ) AS u
    -- OFFSET 0: the list is looked up once, not for each place where it is used.
    CROSS JOIN LATERAL (
        SELECT window_list(coalesce(p_price_list, billing_list(p_user_id, u.day)), u.completion_window, u.day) AS list
        OFFSET 0) AS t
    CROSS JOIN LATERAL class_usage_on(t.list, u.model_id, u.day, u.prompt_tokens, u.completion_tokens,
                                      u.cached_tokens, u.reasoning_tokens, u.cached_answers) AS c
    LEFT JOIN price_lists l ON l.price_list = t.list;
$$;
COMMENT ON FUNCTION usage_priced(text, date, date, text, text) IS
    'A user''s tokens by day, model, completion window and class with the price of that day, as class_usage_on() has '
    'them: from the list named, or from the list of the user''s own terms; of requests with a completion window, from '
    'the list that this one has for them.';

CREATE OR REPLACE FUNCTION priced_usage_json(u priced_usage) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object(
        'day', u.day, 'model', u.model_id, 'requests', u.requests_count, 'token_class', u.token_class,
        'tokens', u.tokens, 'price_list', u.price_list, 'currency', u.currency,
        'price_per_million', trim_scale(u.price_per_million)::text);

CALL define_type('usage_report', $$
    outcome text, plan jsonb, usage jsonb, price_list text, currency text, unfinished bigint, windows jsonb
$$);

-- The completion windows of rows of usage; NULL: they have none.
CREATE OR REPLACE FUNCTION windows_json(p_windows text[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN cardinality(array_remove(p_windows, 'soonest')) > 0 THEN to_jsonb(p_windows) END;

-- Everything about one user's usage, in one call and one snapshot.
CREATE OR REPLACE FUNCTION usage_report_v3(
    p_user_id text, p_first_day date, p_last_day date, p_price_list text, p_attribute text
)
    RETURNS usage_report
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT 'ok', quota_report(p_user_id), coalesce(a.usage, '[]'),
           t.list, (SELECT l.currency::text FROM price_lists l WHERE l.price_list = t.list),
           (SELECT count(*) FROM inflight i
            WHERE i.user_id = p_user_id
              AND i.request_id >= uuidv7_floor(p_first_day::timestamp AT TIME ZONE 'UTC')
              AND i.request_id < uuidv7_floor((p_last_day + 1)::timestamp AT TIME ZONE 'UTC')),
           windows_json(a.windows)
    FROM (SELECT coalesce(p_price_list, billing_list(p_user_id, p_last_day)) AS list) AS t
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(o.priced ORDER BY o.n) AS usage, array_agg(o.completion_window ORDER BY o.n) AS windows
        FROM (
            SELECT priced_usage_json(u) || CASE WHEN p_attribute IS NULL THEN '{}'
                                                ELSE jsonb_build_object('value', u.value) END AS priced,
                   u.completion_window,
                   row_number() OVER (ORDER BY u.day, u.value NULLS LAST, u.model_id, u.completion_window,
                                               array_position(token_classes(), u.token_class)) AS n
            FROM usage_priced(p_user_id, p_first_day, p_last_day, p_price_list, p_attribute) AS u
        ) AS o
    ) AS a;
$$;
COMMENT ON FUNCTION usage_report_v3(text, date, date, text, text) IS
    'plan: quota_report(), NULL if there is no such user. usage: rows of usage_priced(); with p_attribute ("key", '
    '"tag:NAME"), a row for each value of it, in the member value. price_list, currency: the list named, or that of '
    'the last day. unfinished: requests accepted in these days whose tokens are not known yet. windows: the completion '
    'window of each row of usage, or soonest; NULL: there are none.';

CREATE OR REPLACE FUNCTION usage_show_v3(p_key_hash bytea, p_first_day date, p_last_day date, p_attribute text)
    RETURNS usage_report
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    caller record := key_use(p_key_hash, 'read');
    result usage_report;
BEGIN
    IF caller.outcome <> 'ok' THEN
        result.outcome := caller.outcome;
        RETURN result;
    END IF;
    RETURN usage_report_v3(caller.user_id, p_first_day, p_last_day, NULL, p_attribute);
END $$;
COMMENT ON FUNCTION usage_show_v3(bytea, date, date, text) IS 'The caller''s own usage_report_v3().';

-- For the version of the code that knows two classes of tokens, and adds up the rows of each.
CREATE OR REPLACE FUNCTION usage_report_v2(
    p_user_id text, p_first_day date, p_last_day date, p_price_list text, p_attribute text
)
    RETURNS usage_report
    LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    result usage_report := usage_report_v3(p_user_id, p_first_day, p_last_day, p_price_list, p_attribute);
BEGIN
    result.usage := usage_of_two_classes(result.usage);
    result.windows := NULL;
    RETURN result;
END $$;

CREATE OR REPLACE FUNCTION usage_show_v2(p_key_hash bytea, p_first_day date, p_last_day date, p_attribute text)
    RETURNS usage_report
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    result usage_report := usage_show_v3(p_key_hash, p_first_day, p_last_day, p_attribute);
BEGIN
    result.usage := usage_of_two_classes(result.usage);
    result.windows := NULL;
    RETURN result;
END $$;

-- Cached tokens as further prompt tokens, reasoning as further completion tokens, of no further requests: amounts and
-- sums stay as they are.
CREATE OR REPLACE FUNCTION usage_of_two_classes(p_usage jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT coalesce(jsonb_agg(
               CASE WHEN f.class IS NULL THEN u.priced
                    ELSE u.priced || jsonb_build_object('token_class', f.class, 'requests', 0) END
               ORDER BY u.n), '[]')
    FROM jsonb_array_elements(p_usage) WITH ORDINALITY AS u (priced, n)
    CROSS JOIN LATERAL (SELECT fallback_class(u.priced->>'token_class') AS class) AS f
    WHERE u.priced->>'token_class' <> 'cached_answer';
$$;

-- For the version of the code that knows no attributes.
CREATE OR REPLACE FUNCTION usage_report(
    p_user_id text, p_first_day date, p_last_day date, p_price_list text DEFAULT NULL
)
    RETURNS usage_report
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT * FROM usage_report_v2(p_user_id, p_first_day, p_last_day, p_price_list, NULL);
$$;

CREATE OR REPLACE FUNCTION usage_show(p_key_hash bytea, p_first_day date, p_last_day date) RETURNS usage_report
    LANGUAGE sql SECURITY DEFINER AS $$
    SELECT * FROM usage_show_v2(p_key_hash, p_first_day, p_last_day, NULL);
$$;

-- What a request that has ended cost. The amount is NULL if there was no price, and 0 if no tokens were charged.
CREATE OR REPLACE FUNCTION request_cost(
    p_user_id text, p_model_id text, p_day date, p_prompt_tokens integer, p_completion_tokens integer,
    p_cached_tokens integer, p_reasoning_tokens integer, p_cached_answers integer, p_window text
)
    RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    cost jsonb;
BEGIN
    SELECT jsonb_build_object(
               'amount', trim_scale(tokens_amount(p_prompt_tokens, p_completion_tokens, p_cached_tokens,
                                                  p_reasoning_tokens, p_cached_answers, p))::text,
               'currency', l.currency, 'price_list', l.price_list)
    INTO cost
    FROM billing_terms_on(p_user_id, p_day) AS t
    CROSS JOIN LATERAL (
        SELECT CASE WHEN p_window IS NULL THEN t.price_list ELSE window_list(t.price_list, p_window, p_day) END AS list
    ) AS w
    JOIN price_lists l ON l.price_list = w.list
    CROSS JOIN LATERAL class_prices_on(l.price_list, p_model_id, p_day, p_cached_tokens, p_reasoning_tokens,
                                       p_cached_answers) AS p;
    RETURN cost;
END $$;

CALL define_type('tier_candidate', $$
    user_id text, tier text, months bigint, max_requests bigint, max_tokens bigint, candidate text, fits boolean,
    price_list text, currency text, cost numeric, unpriced_tokens bigint
$$);

-- Each user's largest month, and what all of the months would have cost by each tier's price list.
CREATE OR REPLACE FUNCTION tier_analysis(
    p_user_id text, p_first_month date, p_last_month date, p_after text, p_limit integer
)
    RETURNS SETOF tier_candidate
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    WITH measured AS (
        SELECT u.user_id, count(*) AS months, max(u.requests_count) AS max_requests, max(u.tokens_used) AS max_tokens,
               max(d.requests) AS day_requests, max(d.tokens) AS day_tokens
        FROM usage u
        CROSS JOIN LATERAL (
            SELECT max(y.requests_count) AS requests, max(y.tokens_used) AS tokens FROM usage y
            WHERE y.user_id = u.user_id AND y.period = 'daily'
              AND y.period_start BETWEEN u.period_start AND u.period_end
        ) AS d
        WHERE u.period = 'monthly' AND u.period_start BETWEEN p_first_month AND p_last_month
          AND (p_user_id IS NULL OR u.user_id = p_user_id) AND u.user_id > p_after
        GROUP BY u.user_id
        ORDER BY u.user_id
        LIMIT p_limit
    )
    SELECT m.user_id::text, p.tier::text, m.months, m.max_requests, m.max_tokens, t.tier::text,
           -- Below the monthly token limit, not at it: a user who has used all of it may have been held back by it.
           coalesce(m.max_tokens < l.max_tokens, true) AND coalesce(m.max_requests <= l.max_requests, true)
           AND coalesce(m.day_tokens <= y.max_tokens, true) AND coalesce(m.day_requests <= y.max_requests, true),
           t.price_list::text, c.currency::text, trim_scale(coalesce(k.cost, 0)), coalesce(k.unpriced_tokens, 0)
    FROM measured m
    JOIN quota_plans p ON p.user_id = m.user_id
    CROSS JOIN tiers t
    LEFT JOIN tier_limits l ON l.tier = t.tier AND l.quota_period = 'monthly'
    LEFT JOIN tier_limits y ON y.tier = t.tier AND y.quota_period = 'daily'
    JOIN price_lists c ON c.price_list = t.price_list
    LEFT JOIN LATERAL (
        SELECT sum(x.tokens * x.price / 1000000) AS cost,
               sum(x.tokens) FILTER (WHERE x.price IS NULL)::bigint AS unpriced_tokens
        FROM (
            SELECT y.tokens, y.price_per_million AS price
            FROM usage_by_model d
            CROSS JOIN LATERAL (
                SELECT window_list(t.price_list, d.completion_window, d.period_start) AS list OFFSET 0) AS w
            CROSS JOIN LATERAL class_usage_on(w.list, d.model_id, d.period_start, d.prompt_tokens,
                                              d.completion_tokens, d.cached_tokens, d.reasoning_tokens,
                                              d.cached_answers) AS y
            WHERE d.user_id = m.user_id AND d.period = 'daily'
              AND d.period_start >= p_first_month AND d.period_start < p_last_month + interval '1 month'
        ) AS x
    ) AS k ON true
    ORDER BY m.user_id, l.max_tokens NULLS LAST, t.tier;
$$;
COMMENT ON FUNCTION tier_analysis(text, date, date, text, integer) IS
    'One row for each user with usage in these months (given by their first days) and each tier: whether the user''s '
    'largest month and day would have fitted into the tier''s limits, and what the months would have cost. Usage is '
    'that of the last rollup.';
