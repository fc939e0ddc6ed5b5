-- Forecasts: how many tokens a request will probably use, from the answers of its model to requests of its size.

CREATE OR REPLACE FUNCTION size_of(p_tokens integer) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN p_tokens > 0 THEN floor(log(2, p_tokens::numeric))::smallint ELSE -1::smallint END;

-- So many answers of the user, or else of all users, a forecast needs. Those of so many users: a mean of one or two of
-- them would tell what theirs are like.
CREATE OR REPLACE FUNCTION forecast_rules(OUT own bigint, OUT everybodys bigint, OUT users bigint)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 5::bigint, 20::bigint, 3::bigint;
$$;

CALL define_type('answer_forecast', $$
    prompt_tokens integer, completion_tokens integer, answers bigint, is_own boolean
$$);

-- NULL in all fields: too few answers are known.
CREATE OR REPLACE FUNCTION answer_forecast(
    p_user_id text, p_model_id text, p_prompt_most integer, p_max_tokens integer
)
    RETURNS answer_forecast
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    rules  record := forecast_rules();
    known  record;
    is_enough boolean;
    result answer_forecast;
BEGIN
    FOREACH result.is_own IN ARRAY ARRAY[true, false] LOOP
        SELECT sum(s.answers)::bigint AS answers, count(*) AS users, sum(s.prompt_most) AS most,
               sum(s.prompt_tokens) AS prompt, sum(s.completion_tokens) AS completion
        INTO known
        FROM answer_sizes s
        WHERE s.model_id = p_model_id AND s.prompt_size = size_of(p_prompt_most)
          AND s.answer_size = size_of(p_max_tokens) AND (s.user_id = p_user_id OR NOT result.is_own);
        is_enough := CASE WHEN result.is_own THEN known.answers >= rules.own
                          ELSE known.answers >= rules.everybodys AND known.users >= rules.users END;
        EXIT WHEN is_enough;
    END LOOP;
    IF is_enough IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    result.answers := known.answers;
    -- Models have reported more than can be true.
    result.prompt_tokens := least(round(p_prompt_most * known.prompt / nullif(known.most, 0)), p_prompt_most);
    result.completion_tokens := least(round(known.completion / known.answers), p_max_tokens);
    RETURN result;
END $$;
COMMENT ON FUNCTION answer_forecast(text, text, integer, integer) IS
    'p_prompt_most: see prompt_most(). answers: how many it is made from; is_own: they are the user''s own.';

-- Compares what is new in the audit log with what was forecast from all before it, and then learns from it. Only
-- requests that their own model answered with its first call.
CREATE OR REPLACE FUNCTION rollup_forecasts() RETURNS void
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    span record;
BEGIN
    span := rollup_advance('forecasts');
    WITH answered AS MATERIALIZED (
        SELECT r.user_id, r.model_id, (r.created_at AT TIME ZONE 'UTC')::date AS day, w.max_tokens,
               prompt_most(m, r.reserved_tokens, w.max_tokens, request_repairs(p.handling)) AS prompt_most,
               r.prompt_tokens, r.completion_tokens,
               r.total_tokens, r.total_tokens > r.reserved_tokens AS is_above,
               (p.handling #>> '{quote,wait_seconds}')::numeric * 1000 AS forecast_wait,
               greatest(extract(epoch FROM r.started_at - r.created_at), 0) * 1000 AS actual_wait
        FROM audit_log a
        JOIN requests_all r ON r.request_id = a.request_id
        JOIN prompts p ON p.request_id = a.request_id
        JOIN models m ON m.model_id = r.model_id
        CROSS JOIN LATERAL (SELECT coalesce((p.parameters->>'max_tokens')::integer, 0) AS max_tokens) AS w
        WHERE a.xact_id >= span.low AND a.xact_id < span.high AND a.action = 'request.completed'
          AND r.status = 'completed' AND r.attempts = 1 AND r.charges IS NULL AND r.prompt_tokens IS NOT NULL
    ), compared AS (
        SELECT n.*, f.prompt_tokens + f.completion_tokens AS forecast
        FROM answered n
        LEFT JOIN LATERAL answer_forecast(n.user_id, n.model_id, n.prompt_most, n.max_tokens) AS f ON true
    ), judged AS (
        INSERT INTO forecast_stats AS s
            (day, model_id, answers, forecast_tokens, actual_tokens, error_tokens, above_bound, waits,
             forecast_wait_ms, actual_wait_ms, error_wait_ms)
        SELECT c.day, c.model_id, count(c.forecast), coalesce(sum(c.forecast), 0),
               coalesce(sum(c.total_tokens) FILTER (WHERE c.forecast IS NOT NULL), 0),
               coalesce(sum(abs(c.total_tokens - c.forecast)), 0), count(*) FILTER (WHERE c.is_above),
               count(c.forecast_wait), coalesce(sum(c.forecast_wait), 0),
               coalesce(sum(c.actual_wait) FILTER (WHERE c.forecast_wait IS NOT NULL), 0),
               coalesce(sum(abs(c.actual_wait - c.forecast_wait)), 0)
        FROM compared c
        GROUP BY 1, 2
        ON CONFLICT (day, model_id) DO UPDATE SET
            answers = s.answers + EXCLUDED.answers, forecast_tokens = s.forecast_tokens + EXCLUDED.forecast_tokens,
            actual_tokens = s.actual_tokens + EXCLUDED.actual_tokens,
            error_tokens = s.error_tokens + EXCLUDED.error_tokens, above_bound = s.above_bound + EXCLUDED.above_bound,
            waits = s.waits + EXCLUDED.waits, forecast_wait_ms = s.forecast_wait_ms + EXCLUDED.forecast_wait_ms,
            actual_wait_ms = s.actual_wait_ms + EXCLUDED.actual_wait_ms,
            error_wait_ms = s.error_wait_ms + EXCLUDED.error_wait_ms
    )
    INSERT INTO answer_sizes AS s
        (model_id, prompt_size, answer_size, user_id, answers, prompt_most, prompt_tokens, completion_tokens)
    SELECT c.model_id, size_of(c.prompt_most), size_of(c.max_tokens), c.user_id, count(*), sum(c.prompt_most),
           sum(c.prompt_tokens), sum(c.completion_tokens)
    FROM compared c
    GROUP BY 1, 2, 3, 4
    ON CONFLICT (model_id, prompt_size, answer_size, user_id) DO UPDATE SET
        answers = s.answers + EXCLUDED.answers, prompt_most = s.prompt_most + EXCLUDED.prompt_most,
        prompt_tokens = s.prompt_tokens + EXCLUDED.prompt_tokens,
        completion_tokens = s.completion_tokens + EXCLUDED.completion_tokens;
END $$;
COMMENT ON FUNCTION rollup_forecasts() IS 'A part of rollup_stats(), with a watermark of its own.';

CALL define_type('calibration', $$
    model_id text, answers bigint, forecast_tokens bigint, actual_tokens bigint, error_tokens bigint,
    above_bound bigint, waits bigint, forecast_wait_ms bigint, actual_wait_ms bigint, error_wait_ms bigint
$$);

CREATE OR REPLACE FUNCTION calibration_report(p_first_day date, p_last_day date, p_model_id text)
    RETURNS SETOF calibration
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT s.model_id::text, sum(s.answers)::bigint, sum(s.forecast_tokens)::bigint, sum(s.actual_tokens)::bigint,
           sum(s.error_tokens)::bigint, sum(s.above_bound)::bigint, sum(s.waits)::bigint,
           sum(s.forecast_wait_ms)::bigint, sum(s.actual_wait_ms)::bigint, sum(s.error_wait_ms)::bigint
    FROM forecast_stats s
    WHERE s.day BETWEEN p_first_day AND p_last_day AND (p_model_id IS NULL OR s.model_id = p_model_id)
    GROUP BY s.model_id ORDER BY s.model_id;
$$;
COMMENT ON FUNCTION calibration_report(date, date, text) IS
    'By model: how good the forecasts of answers and waits were for requests accepted in these days, as of the last '
    'rollup.';
