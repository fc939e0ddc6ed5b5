-- Invariants of usage; see ledger_verify().

CREATE OR REPLACE FUNCTION usage_text(
    p_requests numeric, p_prompt_tokens numeric, p_completion_tokens numeric, p_cached_tokens numeric,
    p_reasoning_tokens numeric, p_cached_answers numeric
)
    RETURNS text
    LANGUAGE sql STABLE
    RETURN format('requests %s (from the cache %s), prompt tokens %s (cached %s), completion tokens %s (reasoning %s)',
                  p_requests, p_cached_answers, p_prompt_tokens, p_cached_tokens, p_completion_tokens,
                  p_reasoning_tokens);

-- Which part of usage it is: of a day and a model, and of a completion window if it has one.
CREATE OR REPLACE FUNCTION usage_part(p_day date, p_model_id text, p_window text) RETURNS text
    LANGUAGE sql STABLE
    RETURN concat_ws(' ', p_day, p_model_id, nullif(p_window, 'soonest'));

-- The days that an incremental check looks at: today, and those of the requests named.
CREATE OR REPLACE FUNCTION days_to_verify(p_touched uuid[]) RETURNS date[]
    LANGUAGE sql STABLE AS $$
    SELECT ARRAY(
        SELECT utc_today()
        UNION
        SELECT (uuid_extract_timestamp(t.id) AT TIME ZONE 'UTC')::date FROM unnest(p_touched) AS t (id));
$$;

-- Usage of everybody by model and completion window, of some days or of all (NULL), including what is not rolled up
-- yet.
CREATE OR REPLACE FUNCTION usage_kept(p_days date[]) RETURNS SETOF usage_event
    LANGUAGE sql STABLE AS $$
    SELECT k.user_id, k.model_id, k.day, sum(k.requests_count)::bigint, sum(k.prompt_tokens)::bigint,
           sum(k.completion_tokens)::bigint, sum(k.cached_tokens)::bigint, sum(k.reasoning_tokens)::bigint,
           sum(k.cached_answers)::bigint, k.completion_window
    FROM (
        SELECT u.user_id::text, u.model_id::text, u.period_start AS day, u.requests_count, u.prompt_tokens,
               u.completion_tokens, u.cached_tokens, u.reasoning_tokens, u.cached_answers, u.completion_window::text
        FROM usage_by_model u WHERE u.period = 'daily'
        UNION ALL
        SELECT e.user_id, e.model_id, e.day, e.requests_count, e.prompt_tokens, e.completion_tokens, e.cached_tokens,
               e.reasoning_tokens, e.cached_answers, e.completion_window
        FROM rollup_watermarks w CROSS JOIN LATERAL usage_events(w.xact_id, 9223372036854775807) AS e
        WHERE w.task = 'usage'
    ) AS k
    WHERE p_days IS NULL OR k.day = ANY (p_days)
    GROUP BY 1, 2, 3, k.completion_window;
$$;

-- Usage by model, completion window and day = the sum over the requests of the day, including what is not rolled up
-- yet.
CREATE OR REPLACE FUNCTION usage_is_the_sum(p_full boolean, p_touched uuid[]) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    days date[] := days_to_verify(p_touched);
BEGIN
    RETURN QUERY
        WITH wanted AS (
            SELECT r.user_id, c.model_id, (r.created_at AT TIME ZONE 'UTC')::date AS day, sum(c.requests) AS requests,
                   coalesce(sum(c.prompt_tokens), 0) AS prompt_tokens,
                   coalesce(sum(c.completion_tokens), 0) AS completion_tokens,
                   coalesce(sum(c.cached_tokens), 0) AS cached_tokens,
                   coalesce(sum(c.reasoning_tokens), 0) AS reasoning_tokens,
                   coalesce(sum(c.cached_answers), 0) AS cached_answers,
                   coalesce(r.completion_window, 'soonest') AS completion_window
            FROM requests_all r
            CROSS JOIN LATERAL request_charges(r.model_id, r.charges, r.prompt_tokens, r.completion_tokens,
                                               r.cached_tokens, r.reasoning_tokens, r.cached_from IS NOT NULL) AS c
            WHERE p_full
               OR r.request_id >= uuidv7_floor((SELECT min(d) FROM unnest(days) AS d)::timestamp AT TIME ZONE 'UTC')
                  AND (r.created_at AT TIME ZONE 'UTC')::date = ANY (days)
            GROUP BY 1, 2, 3, r.completion_window
        ), kept AS (
            SELECT k.user_id, k.model_id, k.day, k.requests_count AS requests, k.prompt_tokens, k.completion_tokens,
                   k.cached_tokens, k.reasoning_tokens, k.cached_answers, k.completion_window
            FROM usage_kept(CASE WHEN NOT p_full THEN days END) AS k
        )
        SELECT coalesce(w.user_id, k.user_id)::text, NULL::uuid,
               usage_part(coalesce(w.day, k.day), coalesce(w.model_id, k.model_id),
                          coalesce(w.completion_window, k.completion_window)),
               usage_text(coalesce(w.requests, 0), coalesce(w.prompt_tokens, 0), coalesce(w.completion_tokens, 0),
                          coalesce(w.cached_tokens, 0), coalesce(w.reasoning_tokens, 0), coalesce(w.cached_answers, 0)),
               usage_text(coalesce(k.requests, 0), coalesce(k.prompt_tokens, 0), coalesce(k.completion_tokens, 0),
                          coalesce(k.cached_tokens, 0), coalesce(k.reasoning_tokens, 0), coalesce(k.cached_answers, 0))
        FROM wanted w
        FULL JOIN kept k ON k.user_id = w.user_id AND k.model_id = w.model_id AND k.day = w.day
                            AND k.completion_window = w.completion_window
        WHERE (coalesce(w.requests, 0), coalesce(w.prompt_tokens, 0), coalesce(w.completion_tokens, 0),
               coalesce(w.cached_tokens, 0), coalesce(w.reasoning_tokens, 0), coalesce(w.cached_answers, 0))
              <> (coalesce(k.requests, 0), coalesce(k.prompt_tokens, 0), coalesce(k.completion_tokens, 0),
                  coalesce(k.cached_tokens, 0), coalesce(k.reasoning_tokens, 0), coalesce(k.cached_answers, 0))
        LIMIT 100;
END $$;

-- Usage of a period = the sum over its models; a model's month = the sum of its days.
CREATE OR REPLACE FUNCTION usage_adds_up(p_full boolean) RETURNS SETOF violation
    LANGUAGE sql STABLE AS $$
    WITH models AS (
        SELECT m.* FROM usage_by_model m
        WHERE p_full OR m.period_start >= date_trunc('month', clock_now() AT TIME ZONE 'UTC')::date
    ), sums AS (
        SELECT m.user_id, m.period, m.period_start, sum(m.requests_count) AS requests,
               sum(m.prompt_tokens + m.completion_tokens) AS tokens
        FROM models m GROUP BY m.user_id, m.period, m.period_start
    ), totals AS (
        SELECT u.* FROM usage u
        WHERE p_full OR u.period_start >= date_trunc('month', clock_now() AT TIME ZONE 'UTC')::date
    ), months AS (
        SELECT m.user_id, m.model_id, date_trunc('month', m.period_start)::date AS period_start,
               sum(m.requests_count) AS requests, sum(m.prompt_tokens) AS prompt_tokens,
               sum(m.completion_tokens) AS completion_tokens, sum(m.cached_tokens) AS cached_tokens,
               sum(m.reasoning_tokens) AS reasoning_tokens, sum(m.cached_answers) AS cached_answers,
               m.completion_window
        FROM models m WHERE m.period = 'daily' GROUP BY 1, 2, 3, m.completion_window
    )
    SELECT coalesce(s.user_id, u.user_id)::text, NULL::uuid,
           format('%s %s', coalesce(s.period, u.period), coalesce(s.period_start, u.period_start)),
           format('requests %s, tokens %s', coalesce(s.requests, 0), coalesce(s.tokens, 0)),
           format('requests %s, tokens %s', coalesce(u.requests_count, 0), coalesce(u.tokens_used, 0))
    FROM sums s
    FULL JOIN totals u ON u.user_id = s.user_id AND u.period = s.period AND u.period_start = s.period_start
    WHERE (s.requests, s.tokens) IS DISTINCT FROM (u.requests_count, u.tokens_used)
    UNION ALL
    SELECT coalesce(d.user_id, m.user_id)::text, NULL::uuid,
           'monthly ' || usage_part(coalesce(d.period_start, m.period_start), coalesce(d.model_id, m.model_id),
                                    coalesce(d.completion_window, m.completion_window)),
           usage_text(d.requests, d.prompt_tokens, d.completion_tokens, d.cached_tokens, d.reasoning_tokens,
                      d.cached_answers),
           usage_text(m.requests_count, m.prompt_tokens, m.completion_tokens, m.cached_tokens, m.reasoning_tokens,
                      m.cached_answers)
    FROM months d
    FULL JOIN (SELECT * FROM models WHERE period = 'monthly') AS m
        ON m.user_id = d.user_id AND m.model_id = d.model_id AND m.period_start = d.period_start
           AND m.completion_window = d.completion_window
    WHERE (d.requests, d.prompt_tokens, d.completion_tokens, d.cached_tokens, d.reasoning_tokens, d.cached_answers)
          IS DISTINCT FROM
          (m.requests_count, m.prompt_tokens, m.completion_tokens, m.cached_tokens, m.reasoning_tokens,
           m.cached_answers)
    LIMIT 100;
$$;
