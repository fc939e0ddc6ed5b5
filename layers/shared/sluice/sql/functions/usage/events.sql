-- What the rows of the audit log add to usage and statistics.

CALL define_type('request_event', $$
    user_id text, model_id text, created_at timestamptz, queued integer, failed integer, prompt_tokens integer,
    completion_tokens integer, processed integer, processing_time_ms integer, request_id uuid, key_id uuid,
    incomplete integer, cached_tokens integer, reasoning_tokens integer, cached_answers integer,
    completion_window text
$$);

-- The audit rows of requests that were accepted, ended or redriven (which undoes an end), with what each row adds: one
-- event of the model that was asked for, and if others are charged, one of each (see request_charges).
-- Values are those of the audit row and not of the request, which may have ended in another way since.
CREATE OR REPLACE FUNCTION request_events(p_low bigint, p_high bigint, p_user_id text DEFAULT NULL)
    RETURNS SETOF request_event
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
        SELECT r.user_id::text, c.model_id, r.created_at, c.requests * (a.action = 'request.queued')::integer,
               c.requests * CASE WHEN e.status = 'failed' THEN e.sign ELSE 0 END,
               e.sign * coalesce(c.prompt_tokens, 0), e.sign * coalesce(c.completion_tokens, 0),
               c.requests * CASE WHEN e.took IS NULL THEN 0 ELSE e.sign END,
               c.requests * e.sign * coalesce(e.took, 0), r.request_id, r.key_id,
               c.requests * CASE WHEN e.status = 'completed' AND e.facts->>'finish_reason' <> 'stop'
                                 THEN e.sign ELSE 0 END,
               e.sign * coalesce(c.cached_tokens, 0), e.sign * coalesce(c.reasoning_tokens, 0),
               e.sign * coalesce(c.cached_answers, 0), coalesce(r.completion_window, 'soonest')::text
        FROM audit_log a
        JOIN requests_all r ON r.request_id = a.request_id
        CROSS JOIN LATERAL (
            SELECT CASE a.action WHEN 'request.queued' THEN 0 WHEN 'request.redriven' THEN -1 ELSE 1 END AS sign,
                   CASE a.action WHEN 'request.redriven' THEN a.before ELSE a.after END AS facts
        ) AS s
        CROSS JOIN LATERAL (
            SELECT s.sign, s.facts, s.facts->>'status' AS status,
                   CASE WHEN a.action <> 'request.queued' THEN (s.facts->>'processing_time_ms')::integer END AS took
        ) AS e
        CROSS JOIN LATERAL request_charges(
            r.model_id, coalesce(e.facts->'charges', calls_charges(e.facts->'calls')),
            (e.facts->>'prompt_tokens')::integer, (e.facts->>'completion_tokens')::integer,
            (e.facts->>'cached_tokens')::integer, (e.facts->>'reasoning_tokens')::integer, a.action = 'request.cached'
        ) AS c
        WHERE a.xact_id >= p_low AND a.xact_id < p_high
          AND a.action IN ('request.queued', 'request.completed', 'request.failed', 'request.cancelled',
                           'request.expired', 'request.redriven', 'request.cached')
          AND (p_user_id IS NULL OR a.user_id = p_user_id);
END $$;

CALL define_type('usage_event', $$
    user_id text, model_id text, day date, requests_count bigint, prompt_tokens bigint, completion_tokens bigint,
    cached_tokens bigint, reasoning_tokens bigint, cached_answers bigint, completion_window text
$$);

-- All of a request counts in the periods of its created_at: the request when it is queued, its tokens when it ends.
CREATE OR REPLACE FUNCTION usage_events(p_low bigint, p_high bigint, p_user_id text DEFAULT NULL)
    RETURNS SETOF usage_event
    LANGUAGE sql STABLE AS $$
    SELECT e.user_id, e.model_id, (e.created_at AT TIME ZONE 'UTC')::date,
           sum(e.queued), sum(e.prompt_tokens), sum(e.completion_tokens), sum(e.cached_tokens),
           sum(e.reasoning_tokens), sum(e.cached_answers), e.completion_window
    FROM request_events(p_low, p_high, p_user_id) AS e
    GROUP BY 1, 2, 3, e.completion_window;
$$;
COMMENT ON FUNCTION usage_events(bigint, bigint, text) IS
    'What the audit rows of transactions from p_low up to but not including p_high add to usage; only those of one '
    'user, if given.';

CALL define_type('model_usage', $$
    day date, model_id text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint,
    cached_tokens bigint, reasoning_tokens bigint, cached_answers bigint, completion_window text
$$);

-- Usage by day, model and completion window up to now: what was rolled up, and what has happened since the last rollup.
CREATE OR REPLACE FUNCTION usage_now(p_user_id text, p_first_day date, p_last_day date) RETURNS SETOF model_usage
    LANGUAGE sql STABLE AS $$
    SELECT u.day, u.model_id, sum(u.requests_count)::bigint, sum(u.prompt_tokens)::bigint,
           sum(u.completion_tokens)::bigint, sum(u.cached_tokens)::bigint, sum(u.reasoning_tokens)::bigint,
           sum(u.cached_answers)::bigint, u.completion_window
    FROM (
        SELECT m.period_start AS day, m.model_id::text AS model_id, m.requests_count, m.prompt_tokens,
               m.completion_tokens, m.cached_tokens, m.reasoning_tokens, m.cached_answers,
               m.completion_window::text
        FROM usage_by_model m
        WHERE m.user_id = p_user_id AND m.period = 'daily' AND m.period_start BETWEEN p_first_day AND p_last_day
        UNION ALL
        SELECT e.day, e.model_id, e.requests_count, e.prompt_tokens, e.completion_tokens, e.cached_tokens,
               e.reasoning_tokens, e.cached_answers, e.completion_window
        FROM rollup_watermarks w
        CROSS JOIN LATERAL usage_events(w.xact_id, 9223372036854775807, p_user_id) AS e
        WHERE w.task = 'usage' AND e.day BETWEEN p_first_day AND p_last_day
    ) AS u
    GROUP BY u.day, u.model_id, u.completion_window;
$$;
