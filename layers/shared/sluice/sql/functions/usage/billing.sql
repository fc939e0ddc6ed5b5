-- What was used, and what it cost. Cost is not stored: it is computed from the token counts, the user's terms of
-- billing on that day and the price list, so that a past month can be priced again by another list.

CALL define_type('model_usage', $$
    day date, model_id text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint
$$);

-- Usage by day and model up to now: what was rolled up, and what has happened since the last rollup.
CREATE OR REPLACE FUNCTION usage_now(p_user_id text, p_first_day date, p_last_day date) RETURNS SETOF model_usage
    LANGUAGE sql STABLE AS $$
    SELECT u.day, u.model_id, sum(u.requests_count)::bigint, sum(u.prompt_tokens)::bigint,
           sum(u.completion_tokens)::bigint
    FROM (
        SELECT m.period_start AS day, m.model_id::text AS model_id, m.requests_count, m.prompt_tokens,
               m.completion_tokens
        FROM usage_by_model m
        WHERE m.user_id = p_user_id AND m.period = 'daily' AND m.period_start BETWEEN p_first_day AND p_last_day
        UNION ALL
        SELECT e.day, e.model_id, e.requests_count, e.prompt_tokens, e.completion_tokens
        FROM rollup_watermarks w
        CROSS JOIN LATERAL usage_events(w.xact_id, 9223372036854775807, p_user_id) AS e
        WHERE w.task = 'usage' AND e.day BETWEEN p_first_day AND p_last_day
    ) AS u
    GROUP BY u.day, u.model_id;
$$;

-- The price list by which a user's tokens of a day are billed.
CREATE OR REPLACE FUNCTION billing_list(p_user_id text, p_day date) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT b.price_list FROM billing_terms b
    WHERE b.user_id = p_user_id AND b.valid_from <= p_day
    ORDER BY b.valid_from DESC LIMIT 1;
$$;

CREATE OR REPLACE FUNCTION price_on(p_price_list text, p_model_id text, p_token_class text, p_day date) RETURNS numeric
    LANGUAGE sql STABLE AS $$
    SELECT p.price_per_million FROM prices p
    WHERE p.price_list = p_price_list AND p.model_id = p_model_id AND p.token_class = p_token_class
      AND p.valid_from <= p_day
    ORDER BY p.valid_from DESC LIMIT 1;
$$;
COMMENT ON FUNCTION price_on(text, text, text, date) IS
    'The price per million tokens, in the list''s currency; NULL if there was no price.';

CALL define_type('priced_usage', $$
    day date, model_id text, requests_count bigint, token_class text, tokens bigint, price_list text, currency text,
    price_per_million numeric
$$);

CREATE OR REPLACE FUNCTION usage_priced(p_user_id text, p_first_day date, p_last_day date, p_price_list text)
    RETURNS SETOF priced_usage
    LANGUAGE sql STABLE AS $$
    SELECT u.day, u.model_id, u.requests_count, c.token_class, c.tokens, t.list, l.currency::text,
           price_on(t.list, u.model_id, c.token_class, u.day)
    FROM usage_now(p_user_id, p_first_day, p_last_day) AS u
    CROSS JOIN LATERAL (VALUES
        ('prompt', u.prompt_tokens), ('completion', u.completion_tokens)
    ) AS c (token_class, tokens)
    CROSS JOIN LATERAL (SELECT coalesce(p_price_list, billing_list(p_user_id, u.day)) AS list) AS t
    LEFT JOIN price_lists l ON l.price_list = t.list;
$$;
COMMENT ON FUNCTION usage_priced(text, date, date, text) IS
    'A user''s tokens by day, model and class with the price of that day: from the list named, or from the list of the '
    'user''s own terms.';

CALL define_type('usage_report', $$
    outcome text, plan jsonb, usage jsonb, price_list text, currency text, unfinished bigint
$$);

-- Everything about one user's usage, in one call and one snapshot.
CREATE OR REPLACE FUNCTION usage_report(
    p_user_id text, p_first_day date, p_last_day date, p_price_list text DEFAULT NULL
)
    RETURNS usage_report
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT 'ok', quota_report(p_user_id),
           (SELECT coalesce(jsonb_agg(jsonb_build_object(
                       'day', u.day, 'model', u.model_id, 'requests', u.requests_count, 'token_class', u.token_class,
                       'tokens', u.tokens, 'price_list', u.price_list, 'currency', u.currency,
                       'price_per_million', trim_scale(u.price_per_million)::text)
                       ORDER BY u.day, u.model_id, u.token_class DESC), '[]')
            FROM usage_priced(p_user_id, p_first_day, p_last_day, p_price_list) AS u),
           t.list, (SELECT l.currency::text FROM price_lists l WHERE l.price_list = t.list),
           (SELECT count(*) FROM inflight i
            WHERE i.user_id = p_user_id
              AND i.request_id >= uuidv7_floor(p_first_day::timestamp AT TIME ZONE 'UTC')
              AND i.request_id < uuidv7_floor((p_last_day + 1)::timestamp AT TIME ZONE 'UTC'))
    FROM (SELECT coalesce(p_price_list, billing_list(p_user_id, p_last_day)) AS list) AS t;
$$;
COMMENT ON FUNCTION usage_report(text, date, date, text) IS
    'plan: quota_report(), NULL if there is no such user. usage: rows of usage_priced(). price_list, currency: the '
    'list named, or that of the last day. unfinished: requests accepted on these days whose tokens are not known yet.';

CREATE OR REPLACE FUNCTION usage_show(p_key_hash bytea, p_first_day date, p_last_day date) RETURNS usage_report
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    caller record := key_use(p_key_hash, 'read');
    result usage_report;
BEGIN
    IF caller.outcome <> 'ok' THEN
        result.outcome := caller.outcome;
        RETURN result;
    END IF;
    RETURN usage_report(caller.user_id, p_first_day, p_last_day);
END $$;
COMMENT ON FUNCTION usage_show(bytea, date, date) IS 'The caller''s own usage_report().';

-- What one request cost. NULL while the request is unfinished; the amount is NULL if there was no price, and 0 if no
-- tokens were charged.
CREATE OR REPLACE FUNCTION request_cost(r requests) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'amount', trim_scale((
            CASE WHEN r.prompt_tokens > 0
                 THEN r.prompt_tokens * price_on(t.list, r.model_id, 'prompt', t.day) ELSE 0 END
            + CASE WHEN r.completion_tokens > 0
                   THEN r.completion_tokens * price_on(t.list, r.model_id, 'completion', t.day) ELSE 0 END
            ) / 1000000)::text,
        'currency', l.currency, 'price_list', l.price_list)
    FROM (SELECT d.day, billing_list(r.user_id, d.day) AS list
          FROM (SELECT (r.created_at AT TIME ZONE 'UTC')::date AS day) AS d) AS t
    JOIN price_lists l ON l.price_list = t.list
    WHERE r.completed_at IS NOT NULL;
$$;

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
            SELECT y.tokens, price_on(t.price_list, d.model_id, y.class, d.period_start) AS price
            FROM usage_by_model d
            CROSS JOIN LATERAL (VALUES
                ('prompt', d.prompt_tokens), ('completion', d.completion_tokens)
            ) AS y (class, tokens)
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
