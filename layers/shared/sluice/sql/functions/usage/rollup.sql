-- Usage and statistics from the audit log, each row of which is counted once. A run reads the rows of the transactions
-- from its watermark up to the oldest one that is still running: so a late commit is never missed, no row is counted
-- twice, and a run costs only as much as the new rows.

CREATE OR REPLACE FUNCTION rollup_advance(p_task text, OUT low bigint, OUT high bigint)
    LANGUAGE plpgsql AS $$
BEGIN
    -- The lock on the watermark's row makes runs of the same task wait for each other.
    SELECT w.xact_id INTO low FROM rollup_watermarks w WHERE w.task = p_task FOR UPDATE;
    high := greatest(low, pg_snapshot_xmin(pg_current_snapshot())::text::bigint);
    UPDATE rollup_watermarks w SET xact_id = high, updated_at = clock_now() WHERE w.task = p_task;
END $$;

CREATE OR REPLACE FUNCTION rollup_usage() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    span    record;
    changes integer;
BEGIN
    span := rollup_advance('usage');
    WITH by_day AS (
        SELECT * FROM usage_events(span.low, span.high)
    ), changed AS MATERIALIZED (
        SELECT d.user_id, d.model_id, p.period, p.first_day, p.last_day, sum(d.requests_count) AS requests_count,
               sum(d.prompt_tokens) AS prompt_tokens, sum(d.completion_tokens) AS completion_tokens,
               sum(d.cached_tokens) AS cached_tokens, sum(d.reasoning_tokens) AS reasoning_tokens,
               sum(d.cached_answers) AS cached_answers, d.completion_window
        FROM by_day d
        CROSS JOIN LATERAL (VALUES
            ('daily', d.day, d.day),
            ('monthly', date_trunc('month', d.day)::date,
             (date_trunc('month', d.day) + interval '1 month -1 day')::date)
        ) AS p (period, first_day, last_day)
        GROUP BY d.user_id, d.model_id, p.period, p.first_day, p.last_day, d.completion_window
    ), by_user AS (
        INSERT INTO usage AS u (user_id, period, period_start, period_end, requests_count, tokens_used)
        SELECT c.user_id, c.period, c.first_day, c.last_day,
               sum(c.requests_count), sum(c.prompt_tokens + c.completion_tokens)
        FROM changed c
        GROUP BY c.user_id, c.period, c.first_day, c.last_day
        ON CONFLICT (user_id, period, period_start) DO UPDATE SET
            requests_count = u.requests_count + EXCLUDED.requests_count,
            tokens_used = u.tokens_used + EXCLUDED.tokens_used
    ), adjusted AS (
        INSERT INTO adjustments_due (user_id, month)
        SELECT DISTINCT c.user_id, month_of(utc_today()) FROM changed c
        WHERE c.period = 'monthly' AND is_closed(c.user_id, c.first_day)
        ON CONFLICT DO NOTHING
    )
    INSERT INTO usage_by_model AS u
        (user_id, model_id, period, period_start, requests_count, prompt_tokens, completion_tokens, cached_tokens,
         reasoning_tokens, cached_answers, completion_window)
    SELECT c.user_id, c.model_id, c.period, c.first_day, c.requests_count, c.prompt_tokens, c.completion_tokens,
           c.cached_tokens, c.reasoning_tokens, c.cached_answers, c.completion_window
    FROM changed c
    ON CONFLICT (user_id, period, period_start, model_id, completion_window) DO UPDATE SET
        requests_count = u.requests_count + EXCLUDED.requests_count,
        prompt_tokens = u.prompt_tokens + EXCLUDED.prompt_tokens,
        completion_tokens = u.completion_tokens + EXCLUDED.completion_tokens,
        cached_tokens = u.cached_tokens + EXCLUDED.cached_tokens,
        reasoning_tokens = u.reasoning_tokens + EXCLUDED.reasoning_tokens,
        cached_answers = u.cached_answers + EXCLUDED.cached_answers;
    GET DIAGNOSTICS changes = ROW_COUNT;
    PERFORM rollup_attributes();
    RETURN changes;
END $$;
COMMENT ON FUNCTION rollup_usage() IS
    'Adds what is new in the audit log to usage, usage_by_model and usage_by_attribute; returns how many rows of '
    'usage_by_model changed.';

CREATE OR REPLACE FUNCTION rollup_stats() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    span    record;
    changes integer;
BEGIN
    span := rollup_advance('stats');
    INSERT INTO request_stats AS s
        (day, user_id, model_id, request_count, processed_count, processing_time_ms_sum, failure_count,
         incomplete_count)
    SELECT date_trunc('day', e.created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', e.user_id, e.model_id,
           sum(e.queued), sum(e.processed), sum(e.processing_time_ms), sum(e.failed), sum(e.incomplete)
    FROM request_events(span.low, span.high) AS e
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (day, user_id, model_id) DO UPDATE SET
        request_count = s.request_count + EXCLUDED.request_count,
        processed_count = s.processed_count + EXCLUDED.processed_count,
        processing_time_ms_sum = s.processing_time_ms_sum + EXCLUDED.processing_time_ms_sum,
        failure_count = s.failure_count + EXCLUDED.failure_count,
        incomplete_count = s.incomplete_count + EXCLUDED.incomplete_count;
    GET DIAGNOSTICS changes = ROW_COUNT;
    -- Each end says whether it kept the promise; a redrive says it again, and takes it back.
    INSERT INTO window_stats AS s (day, completion_window, kept, missed)
    SELECT (r.created_at AT TIME ZONE 'UTC')::date, r.completion_window,
           coalesce(sum(e.sign) FILTER (WHERE e.kept), 0), coalesce(sum(e.sign) FILTER (WHERE NOT e.kept), 0)
    FROM audit_log a
    JOIN requests_all r ON r.request_id = a.request_id
    CROSS JOIN LATERAL (
        SELECT CASE a.action WHEN 'request.redriven' THEN -1 ELSE 1 END AS sign,
               (CASE a.action WHEN 'request.redriven' THEN a.before ELSE a.after END->>'window_kept')::boolean AS kept
    ) AS e
    WHERE a.xact_id >= span.low AND a.xact_id < span.high
      AND (a.after ? 'window_kept' OR a.before ? 'window_kept')
    GROUP BY 1, 2
    ORDER BY 1, 2
    ON CONFLICT (day, completion_window) DO UPDATE SET
        kept = s.kept + EXCLUDED.kept, missed = s.missed + EXCLUDED.missed;
    PERFORM rollup_forecasts();
    RETURN changes;
END $$;
COMMENT ON FUNCTION rollup_stats() IS
    'Adds what is new in the audit log to request_stats, window_stats, answer_sizes and forecast_stats; returns how '
    'many rows of request_stats changed.';

CALL define_type('window_record', $$completion_window text, kept bigint, missed bigint$$);

CREATE OR REPLACE FUNCTION window_report(p_first_day date, p_last_day date) RETURNS SETOF window_record
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT s.completion_window::text, sum(s.kept)::bigint, sum(s.missed)::bigint
    FROM window_stats s JOIN completion_windows() AS w ON w.name = s.completion_window
    WHERE s.day BETWEEN p_first_day AND p_last_day
    GROUP BY s.completion_window, w.length ORDER BY w.length;
$$;
COMMENT ON FUNCTION window_report(date, date) IS
    'By completion window: how many requests accepted in these days ended within it, and how many did not, as of the '
    'last rollup.';
