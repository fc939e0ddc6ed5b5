-- What was used, and what it cost. Cost is stored nowhere: it follows from raw token counts, the user's terms of the day
-- and the price list, so that a past month can be priced again under another one.

-- The audit rows that accept and end requests, and those that undo an end (a redrive): what each adds to the figures. Their
-- own words count, not the request's, which may have ended in another way since.
CREATE OR REPLACE FUNCTION request_events(low bigint, high bigint, of_user text DEFAULT NULL)
    RETURNS TABLE (
        user_id text, model_id text, created_at timestamptz, queued integer, failed integer,
        prompt_tokens integer, completion_tokens integer, processed integer, processing_time_ms integer
    )
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT r.user_id::text, r.model_id::text, r.created_at, (a.action = 'request.queued')::integer,
               CASE WHEN e.status = 'failed' THEN e.sign ELSE 0 END,
               e.sign * coalesce((e.told->>'prompt_tokens')::integer, 0),
               e.sign * coalesce((e.told->>'completion_tokens')::integer, 0),
               CASE WHEN e.took IS NULL THEN 0 ELSE e.sign END, e.sign * coalesce(e.took, 0)
        FROM audit_log a
        JOIN requests_all r ON r.request_id = a.request_id
        CROSS JOIN LATERAL (
            SELECT CASE a.action WHEN 'request.queued' THEN 0 WHEN 'request.redriven' THEN -1 ELSE 1 END AS sign,
                   CASE a.action WHEN 'request.redriven' THEN a.before ELSE a.after END AS told
        ) AS s
        CROSS JOIN LATERAL (
            SELECT s.sign, s.told, s.told->>'status' AS status,
                   -- Rows of version 2 do not tell the time; their requests do.
                   CASE WHEN a.action = 'request.queued' THEN NULL
                        ELSE coalesce((s.told->>'processing_time_ms')::integer, r.processing_time_ms) END AS took
        ) AS e
        WHERE a.xact_id >= low AND a.xact_id < high
          AND a.action IN ('request.queued', 'request.completed', 'request.failed', 'request.cancelled', 'request.expired',
                           'request.redriven')
          AND (of_user IS NULL OR a.user_id = of_user);
END $$;

-- A request counts in the periods of its created_at: once when it was queued, its tokens when it ended.
CREATE OR REPLACE FUNCTION usage_events(low bigint, high bigint, of_user text DEFAULT NULL)
    RETURNS TABLE (user_id text, model_id text, day date, requests_count bigint, prompt_tokens bigint, completion_tokens bigint)
    LANGUAGE sql STABLE AS $$
    SELECT e.user_id, e.model_id, (e.created_at AT TIME ZONE 'UTC')::date,
           sum(e.queued), sum(e.prompt_tokens), sum(e.completion_tokens)
    FROM request_events(low, high, of_user) AS e
    GROUP BY 1, 2, 3;
$$;
COMMENT ON FUNCTION usage_events IS
    'What the audit rows of transactions from low up to, not including, high add to usage; of one user where one is given.';

-- Usage by day and model as of now: what was rolled up, and what has happened since.
CREATE OR REPLACE FUNCTION usage_now(of_user text, first_day date, last_day date)
    RETURNS TABLE (day date, model_id text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint)
    LANGUAGE sql STABLE AS $$
    SELECT u.day, u.model_id, sum(u.requests_count)::bigint, sum(u.prompt_tokens)::bigint, sum(u.completion_tokens)::bigint
    FROM (
        SELECT m.period_start AS day, m.model_id::text AS model_id, m.requests_count, m.prompt_tokens, m.completion_tokens
        FROM usage_by_model m
        WHERE m.user_id = of_user AND m.period = 'daily' AND m.period_start BETWEEN first_day AND last_day
        UNION ALL
        SELECT e.day, e.model_id, e.requests_count, e.prompt_tokens, e.completion_tokens
        FROM rollup_watermarks w
        CROSS JOIN LATERAL usage_events(w.xact_id, 9223372036854775807, of_user) AS e
        WHERE w.task = 'usage' AND e.day BETWEEN first_day AND last_day
    ) AS u
    GROUP BY u.day, u.model_id;
$$;

-- The price list by which a user's tokens of a day are billed.
CREATE OR REPLACE FUNCTION billing_list(of_user text, on_day date) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT b.price_list FROM billing_terms b
    WHERE b.user_id = of_user AND b.valid_from <= on_day
    ORDER BY b.valid_from DESC LIMIT 1;
$$;

CREATE OR REPLACE FUNCTION price_on(list text, model text, class text, on_day date) RETURNS numeric
    LANGUAGE sql STABLE AS $$
    SELECT p.price_per_million FROM prices p
    WHERE p.price_list = list AND p.model_id = model AND p.token_class = class AND p.valid_from <= on_day
    ORDER BY p.valid_from DESC LIMIT 1;
$$;
COMMENT ON FUNCTION price_on IS 'Per million tokens, in the list''s currency; NULL where there was no price.';

CREATE OR REPLACE FUNCTION usage_priced(of_user text, first_day date, last_day date, by_list text)
    RETURNS TABLE (
        day date, model_id text, requests_count bigint, token_class text, tokens bigint,
        price_list text, currency text, price_per_million numeric
    )
    LANGUAGE sql STABLE AS $$
    SELECT u.day, u.model_id, u.requests_count, c.token_class, c.tokens, t.list, l.currency::text,
           price_on(t.list, u.model_id, c.token_class, u.day)
    FROM usage_now(of_user, first_day, last_day) AS u
    CROSS JOIN LATERAL (VALUES ('prompt', u.prompt_tokens), ('completion', u.completion_tokens)) AS c (token_class, tokens)
    CROSS JOIN LATERAL (SELECT coalesce(by_list, billing_list(of_user, u.day)) AS list) AS t
    LEFT JOIN price_lists l ON l.price_list = t.list;
$$;
COMMENT ON FUNCTION usage_priced IS
    'A user''s tokens by day, model and class with the price of that day: of the list named, or of the user''s own terms.';

-- Everything about one user's use, in one call and one snapshot.
CREATE OR REPLACE FUNCTION usage_report(of_user text, first_day date, last_day date, by_list text DEFAULT NULL)
    RETURNS TABLE (plan jsonb, usage jsonb, price_list text, currency text, unfinished bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT quota_report(of_user),
           (SELECT coalesce(jsonb_agg(jsonb_build_object(
                       'day', u.day, 'model', u.model_id, 'requests', u.requests_count, 'token_class', u.token_class,
                       'tokens', u.tokens, 'price_list', u.price_list, 'currency', u.currency,
                       'price_per_million', trim_scale(u.price_per_million)::text)
                       ORDER BY u.day, u.model_id, u.token_class DESC), '[]')
            FROM usage_priced(of_user, first_day, last_day, by_list) AS u),
           t.list, (SELECT l.currency::text FROM price_lists l WHERE l.price_list = t.list),
           (SELECT count(*) FROM inflight i
            WHERE i.user_id = of_user
              AND i.request_id >= uuidv7_floor(first_day::timestamp AT TIME ZONE 'UTC')
              AND i.request_id < uuidv7_floor((last_day + 1)::timestamp AT TIME ZONE 'UTC'))
    FROM (SELECT coalesce(by_list, billing_list(of_user, last_day)) AS list) AS t;
$$;
COMMENT ON FUNCTION usage_report IS
    'plan: quota_report(), NULL where there is no such user; usage: rows of usage_priced(); the price list of the last day; '
    'unfinished: requests accepted in these days whose tokens are not known yet.';

CREATE OR REPLACE FUNCTION usage_read(key_hash bytea, first_day date, last_day date)
    RETURNS TABLE (outcome text, plan jsonb, usage jsonb)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    who record := key_use(usage_read.key_hash, 'read');
BEGIN
    IF who.outcome <> 'ok' THEN
        outcome := who.outcome;
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY SELECT 'ok', r.plan, r.usage FROM usage_report(who.user_id, first_day, last_day) AS r;
END $$;

-- What one request cost. NULL while it is unfinished; an amount of NULL where there was no price; 0 where nothing was booked.
CREATE OR REPLACE FUNCTION request_cost(r requests) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'amount', trim_scale((
            CASE WHEN r.prompt_tokens > 0 THEN r.prompt_tokens * price_on(t.list, r.model_id, 'prompt', t.day) ELSE 0 END
            + CASE WHEN r.completion_tokens > 0
                   THEN r.completion_tokens * price_on(t.list, r.model_id, 'completion', t.day) ELSE 0 END
            ) / 1000000)::text,
        'currency', l.currency, 'price_list', l.price_list)
    FROM (SELECT d.day, billing_list(r.user_id, d.day) AS list
          FROM (SELECT (r.created_at AT TIME ZONE 'UTC')::date AS day) AS d) AS t
    JOIN price_lists l ON l.price_list = t.list
    WHERE r.completed_at IS NOT NULL;
$$;

-- The largest month of each user's usage, and what all of the months would have cost under each tier's price list.
CREATE OR REPLACE FUNCTION tier_analysis(of_user text, first_month date, last_month date, after_user text, at_most integer)
    RETURNS TABLE (
        user_id text, tier text, months bigint, max_requests bigint, max_tokens bigint, candidate text,
        fits boolean, price_list text, currency text, cost numeric, unpriced_tokens bigint
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH measured AS (
        SELECT u.user_id, count(*) AS months, max(u.requests_count) AS max_requests, max(u.tokens_used) AS max_tokens,
               max(d.requests) AS day_requests, max(d.tokens) AS day_tokens
        FROM usage u
        CROSS JOIN LATERAL (
            SELECT max(y.requests_count) AS requests, max(y.tokens_used) AS tokens FROM usage y
            WHERE y.user_id = u.user_id AND y.period = 'daily' AND y.period_start BETWEEN u.period_start AND u.period_end
        ) AS d
        WHERE u.period = 'monthly' AND u.period_start BETWEEN first_month AND last_month
          AND (of_user IS NULL OR u.user_id = of_user) AND u.user_id > after_user
        GROUP BY u.user_id
        ORDER BY u.user_id
        LIMIT at_most
    )
    SELECT m.user_id::text, p.tier::text, m.months, m.max_requests, m.max_tokens, t.tier::text,
           -- Below the limit, not at it: who has used all of it was perhaps held back by it.
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
        SELECT sum(x.tokens * x.price / 1000000) AS cost, sum(x.tokens) FILTER (WHERE x.price IS NULL)::bigint AS unpriced_tokens
        FROM (
            SELECT y.tokens, price_on(t.price_list, d.model_id, y.class, d.period_start) AS price
            FROM usage_by_model d
            CROSS JOIN LATERAL (VALUES ('prompt', d.prompt_tokens), ('completion', d.completion_tokens)) AS y (class, tokens)
            WHERE d.user_id = m.user_id AND d.period = 'daily'
              AND d.period_start >= first_month AND d.period_start < last_month + interval '1 month'
        ) AS x
    ) AS k ON true
    ORDER BY m.user_id, l.max_tokens NULLS LAST, t.tier;
$$;
COMMENT ON FUNCTION tier_analysis IS
    'A row for each user with usage in these months (first days given) and each tier: whether the largest month and day '
    'would have fitted the tier''s limits, and what the months would have cost. Figures are those of the last rollup.';
