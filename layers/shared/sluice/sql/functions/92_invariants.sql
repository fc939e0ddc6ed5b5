-- The books balance: the invariants, each a query that finds what breaks it. An empty answer is what all the rest of the
-- system promises. books_check() asks all of them in one snapshot.
--
-- Scope: `every` looks at everything there is. Otherwise: requests from the first id of `today` (UTC) on, and `touched` ones
-- (those of earlier days that the audit log names since the last check), the counters of periods that run, and the usage
-- of these days. Each answers at most so many violations as are worth reading.

-- One SELECT, so that it is planned with the query that it is in, and parts that cannot hold are left out.
CREATE OR REPLACE FUNCTION books_requests(every boolean, today uuid, touched uuid[])
    RETURNS SETOF requests
    LANGUAGE sql STABLE AS $$
    SELECT * FROM requests_all WHERE every
    UNION ALL
    SELECT r.* FROM requests r WHERE NOT every AND r.request_id >= today
    UNION ALL
    SELECT r.* FROM unnest(touched) AS t (id) JOIN requests_all r ON r.request_id = t.id WHERE NOT every AND r.request_id < today;
$$;

-- 0. Every user has a plan, three counters of aligned periods, and terms of billing; limits are the tier's, or, where they
-- are the user's own, those that were audited last.
CREATE OR REPLACE FUNCTION plan_is_whole()
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE sql STABLE AS $$
    WITH own AS MATERIALIZED (
        SELECT p.user_id, (SELECT a.after FROM audit_log a
                           WHERE a.user_id = p.user_id AND a.action = 'quota.changed'
                           ORDER BY a.audit_id DESC LIMIT 1) AS audited
        FROM quota_plans p
        WHERE p.is_override OR EXISTS (SELECT FROM quotas q WHERE q.user_id = p.user_id AND q.is_override)
    )
    SELECT u.user_id::text, NULL::uuid, NULL::text, 'a plan, 3 quotas, terms from the first day',
           format('%s plan, %s quotas, terms from %s', CASE WHEN p.user_id IS NULL THEN 'no' ELSE 'a' END, q.n, b.first_day)
    FROM users u
    LEFT JOIN quota_plans p ON p.user_id = u.user_id
    LEFT JOIN (SELECT q.user_id, count(*) AS n FROM quotas q GROUP BY q.user_id) AS q ON q.user_id = u.user_id
    LEFT JOIN (SELECT t.user_id, min(t.valid_from) AS first_day FROM billing_terms t GROUP BY t.user_id) AS b ON b.user_id = u.user_id
    WHERE p.user_id IS NULL OR q.n IS DISTINCT FROM 3
       OR b.first_day IS NULL OR b.first_day > (u.created_at AT TIME ZONE 'UTC')::date
    UNION ALL
    SELECT p.user_id::text, NULL::uuid, NULL::text,
           format('%s unfinished, window %s, %s', w.max_unfinished, w.dispatch_window, w.reset_frequency),
           format('%s unfinished, window %s, %s', p.max_unfinished, p.dispatch_window, p.reset_frequency)
    FROM quota_plans p
    JOIN tiers t ON t.tier = p.tier
    LEFT JOIN own o ON o.user_id = p.user_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN p.is_override THEN (o.audited->>'max_unfinished')::integer ELSE t.max_unfinished END AS max_unfinished,
               CASE WHEN p.is_override THEN (o.audited->>'dispatch_window')::integer ELSE t.dispatch_window END AS dispatch_window,
               CASE WHEN p.is_override THEN o.audited->>'reset_frequency' ELSE t.reset_frequency END AS reset_frequency
    ) AS w
    WHERE (p.max_unfinished, p.dispatch_window, p.reset_frequency)
          IS DISTINCT FROM (w.max_unfinished, w.dispatch_window, w.reset_frequency)
    UNION ALL
    SELECT q.user_id::text, NULL::uuid, q.quota_period::text,
           format('%s to %s', period_start(q.quota_period, q.period_start), period_end(q.quota_period, q.period_start)),
           format('%s to %s', q.period_start, q.reset_at)
    FROM quotas q
    WHERE (q.period_start, q.reset_at) <> (period_start(q.quota_period, q.period_start), period_end(q.quota_period, q.period_start))
    UNION ALL
    SELECT q.user_id::text, NULL::uuid, q.quota_period::text,
           format('requests %s, tokens %s', coalesce(w.max_requests::text, 'unlimited'), coalesce(w.max_tokens::text, 'unlimited')),
           format('requests %s, tokens %s', coalesce(q.max_requests::text, 'unlimited'), coalesce(q.max_tokens::text, 'unlimited'))
    FROM quotas q
    JOIN quota_plans p ON p.user_id = q.user_id
    LEFT JOIN tier_limits l ON l.tier = p.tier AND l.quota_period = q.quota_period
    LEFT JOIN own o ON o.user_id = q.user_id
    CROSS JOIN LATERAL (SELECT o.audited->'limits'->q.quota_period AS limits) AS a
    CROSS JOIN LATERAL (
        SELECT CASE WHEN q.is_override THEN (a.limits->>'max_requests')::integer ELSE l.max_requests END AS max_requests,
               CASE WHEN q.is_override THEN (a.limits->>'max_tokens')::bigint ELSE l.max_tokens END AS max_tokens
    ) AS w
    WHERE (q.max_requests, q.max_tokens) IS DISTINCT FROM (w.max_requests, w.max_tokens)
       OR q.is_override AND a.limits IS NULL
    LIMIT 100;
$$;

-- 1. used + reserved ≤ limit, unless the limit was lowered in this period, or a model reported more than was reserved.
CREATE OR REPLACE FUNCTION quota_within_limit(every boolean)
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE sql STABLE AS $$
    SELECT q.user_id::text, NULL::uuid, q.quota_period::text,
           format('requests <= %s, tokens <= %s', coalesce(a.max_requests::text, 'unlimited'), coalesce(a.max_tokens::text, 'unlimited')),
           format('requests %s, tokens %s', q.requests_used, q.tokens_used + q.tokens_reserved)
    FROM quotas q
    CROSS JOIN LATERAL (
        -- The highest limit that held in the period, and what audited overruns have added.
        SELECT CASE WHEN bool_and(l.max_requests IS NOT NULL) THEN max(l.max_requests) END AS max_requests,
               CASE WHEN bool_and(l.max_tokens IS NOT NULL) THEN max(l.max_tokens) END + (
                   SELECT coalesce(sum((o.after->>'overrun_tokens')::bigint), 0)
                   FROM audit_log o JOIN requests_all r ON r.request_id = o.request_id
                   WHERE o.user_id = q.user_id AND o.after ? 'overrun_tokens'
                     AND r.created_at >= q.period_start AND r.created_at < q.reset_at) AS max_tokens
        FROM (
            SELECT q.max_requests::bigint AS max_requests, q.max_tokens
            UNION ALL
            SELECT (o.before->'limits'->q.quota_period->>'max_requests')::bigint,
                   (o.before->'limits'->q.quota_period->>'max_tokens')::bigint
            FROM audit_log o
            WHERE o.user_id = q.user_id AND o.action = 'quota.changed'
              AND (o.before->'limits'->q.quota_period->>'period_start')::timestamptz = q.period_start
        ) AS l
    ) AS a
    WHERE (q.requests_used > q.max_requests OR q.tokens_used + q.tokens_reserved > q.max_tokens)
      AND (q.requests_used > a.max_requests OR q.tokens_used + q.tokens_reserved > a.max_tokens)
      AND (every OR q.reset_at > clock_now())
    LIMIT 100;
$$;

-- 2. reserved = the sum over unfinished requests of the counter's period.
CREATE OR REPLACE FUNCTION quota_reserved_is_the_sum(every boolean)
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE sql STABLE AS $$
    SELECT q.user_id::text, NULL::uuid, q.quota_period::text, coalesce(s.reserved, 0)::text, q.tokens_reserved::text
    FROM quotas q
    LEFT JOIN (
        SELECT p.user_id, p.quota_period, sum(r.reserved_tokens) AS reserved
        FROM inflight i
        JOIN requests_all r ON r.request_id = i.request_id
        JOIN quotas p ON p.user_id = r.user_id AND r.created_at >= p.period_start AND r.created_at < p.reset_at
        GROUP BY p.user_id, p.quota_period
    ) AS s ON s.user_id = q.user_id AND s.quota_period = q.quota_period
    WHERE q.tokens_reserved <> coalesce(s.reserved, 0) AND (every OR q.reset_at > clock_now())
    LIMIT 100;
$$;

-- 3. used = the sum over the requests of the counter's period: all of them counted, the settled ones' tokens.
CREATE OR REPLACE FUNCTION quota_used_is_the_sum(every boolean)
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE sql STABLE AS $$
    WITH spans AS MATERIALIZED (
        SELECT q.*, uuidv7_floor(q.period_start) AS low, uuidv7_floor(q.reset_at) AS high
        FROM quotas q WHERE every OR q.reset_at > clock_now()
    ), sums AS (
        SELECT s.user_id, s.quota_period, count(*) AS requests,
               coalesce(sum(r.total_tokens) FILTER (WHERE r.completed_at IS NOT NULL), 0) AS tokens
        FROM spans s
        JOIN requests_all r ON r.user_id = s.user_id AND r.request_id >= s.low AND r.request_id < s.high
        WHERE r.request_id >= (SELECT low FROM spans ORDER BY low LIMIT 1)
        GROUP BY s.user_id, s.quota_period
    )
    SELECT q.user_id::text, NULL::uuid, q.quota_period::text,
           format('requests %s, tokens %s', coalesce(s.requests, 0), coalesce(s.tokens, 0)),
           format('requests %s, tokens %s', q.requests_used, q.tokens_used)
    FROM spans q
    LEFT JOIN sums s ON s.user_id = q.user_id AND s.quota_period = q.quota_period
    WHERE (q.requests_used, q.tokens_used) <> (coalesce(s.requests, 0), coalesce(s.tokens, 0))
    LIMIT 100;
$$;

-- 4. usage by model and day = the sum over the requests of the day, what is not rolled up yet included.
CREATE OR REPLACE FUNCTION usage_is_the_sum(every boolean, touched uuid[])
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    days date[];
    mark bigint := (SELECT w.xact_id FROM rollup_watermarks w WHERE w.task = 'usage');
BEGIN
    IF NOT every THEN
        days := ARRAY(
            SELECT (clock_now() AT TIME ZONE 'UTC')::date
            UNION
            SELECT (uuid_extract_timestamp(t.id) AT TIME ZONE 'UTC')::date FROM unnest(touched) AS t (id));
    END IF;
    RETURN QUERY
        WITH wanted AS (
            SELECT r.user_id, r.model_id, (r.created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS requests,
                   coalesce(sum(r.prompt_tokens), 0) AS prompt_tokens, coalesce(sum(r.completion_tokens), 0) AS completion_tokens
            FROM requests_all r
            WHERE every OR r.request_id >= uuidv7_floor((SELECT min(d) FROM unnest(days) AS d)::timestamp AT TIME ZONE 'UTC')
                           AND (r.created_at AT TIME ZONE 'UTC')::date = ANY (days)
            GROUP BY 1, 2, 3
        ), kept AS (
            SELECT k.user_id, k.model_id, k.day, sum(k.requests) AS requests,
                   sum(k.prompt_tokens) AS prompt_tokens, sum(k.completion_tokens) AS completion_tokens
            FROM (
                SELECT u.user_id::text, u.model_id::text, u.period_start AS day, u.requests_count AS requests,
                       u.prompt_tokens, u.completion_tokens
                FROM usage_by_model u WHERE u.period = 'daily'
                UNION ALL
                SELECT e.user_id, e.model_id, e.day, e.requests_count, e.prompt_tokens, e.completion_tokens
                FROM usage_events(mark, 9223372036854775807) AS e
            ) AS k
            WHERE every OR k.day = ANY (days)
            GROUP BY 1, 2, 3
        )
        SELECT coalesce(w.user_id, k.user_id)::text, NULL::uuid, format('%s %s', coalesce(w.day, k.day), coalesce(w.model_id, k.model_id)),
               format('requests %s, prompt tokens %s, completion tokens %s', coalesce(w.requests, 0), coalesce(w.prompt_tokens, 0), coalesce(w.completion_tokens, 0)),
               format('requests %s, prompt tokens %s, completion tokens %s', coalesce(k.requests, 0), coalesce(k.prompt_tokens, 0), coalesce(k.completion_tokens, 0))
        FROM wanted w
        FULL JOIN kept k ON k.user_id = w.user_id AND k.model_id = w.model_id AND k.day = w.day
        WHERE (coalesce(w.requests, 0), coalesce(w.prompt_tokens, 0), coalesce(w.completion_tokens, 0))
              <> (coalesce(k.requests, 0), coalesce(k.prompt_tokens, 0), coalesce(k.completion_tokens, 0))
        LIMIT 100;
END $$;

-- 5. usage of a period = the sum over its models; a model's month = the sum of its days.
CREATE OR REPLACE FUNCTION usage_adds_up(every boolean)
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE sql STABLE AS $$
    WITH models AS (
        SELECT m.* FROM usage_by_model m
        WHERE every OR m.period_start >= date_trunc('month', clock_now() AT TIME ZONE 'UTC')::date
    ), sums AS (
        SELECT m.user_id, m.period, m.period_start, sum(m.requests_count) AS requests, sum(m.prompt_tokens + m.completion_tokens) AS tokens
        FROM models m GROUP BY m.user_id, m.period, m.period_start
    ), totals AS (
        SELECT u.* FROM usage u
        WHERE every OR u.period_start >= date_trunc('month', clock_now() AT TIME ZONE 'UTC')::date
    ), months AS (
        SELECT m.user_id, m.model_id, date_trunc('month', m.period_start)::date AS period_start, sum(m.requests_count) AS requests,
               sum(m.prompt_tokens) AS prompt_tokens, sum(m.completion_tokens) AS completion_tokens
        FROM models m WHERE m.period = 'daily' GROUP BY 1, 2, 3
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
           format('monthly %s %s', coalesce(d.period_start, m.period_start), coalesce(d.model_id, m.model_id)),
           format('requests %s, prompt tokens %s, completion tokens %s', d.requests, d.prompt_tokens, d.completion_tokens),
           format('requests %s, prompt tokens %s, completion tokens %s', m.requests_count, m.prompt_tokens, m.completion_tokens)
    FROM months d
    FULL JOIN (SELECT * FROM models WHERE period = 'monthly') AS m
        ON m.user_id = d.user_id AND m.model_id = d.model_id AND m.period_start = d.period_start
    WHERE (d.requests, d.prompt_tokens, d.completion_tokens) IS DISTINCT FROM (m.requests_count, m.prompt_tokens, m.completion_tokens)
    LIMIT 100;
$$;

-- 6. Every request was audited when it was accepted, and settled and audited exactly once if it is finished, and is what
-- those rows say: whose it is, of which key and model, what it reserved, how it ended and with how many tokens.
CREATE OR REPLACE FUNCTION request_settled_once(every boolean, today uuid, touched uuid[])
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    -- No audit row of a request is older than the request (or, where a test moves the clock, than this day); an hour is for
    -- a clock that was set back.
    oldest uuid := CASE WHEN every THEN '00000000-0000-0000-0000-000000000000' ELSE
        least(today, uuidv7_floor(period_start('daily', clock_timestamp()) - interval '1 hour'),
              (SELECT t.id FROM unnest(touched) AS t (id) ORDER BY t.id LIMIT 1)) END;
BEGIN
    RETURN QUERY
        WITH told AS (
            SELECT a.request_id, a.user_id, a.key_id, a.after, a.before,
                   a.action = 'request.queued' AS accepted, a.action = 'request.redriven' AS redriven
            FROM audit_log a
            WHERE a.audit_id >= oldest
              AND a.action IN ('request.queued', 'request.completed', 'request.failed', 'request.cancelled', 'request.expired',
                               'request.redriven')
        ), audited AS (
            -- A redrive undoes one end: the failure that it names, and the tokens of that.
            SELECT t.request_id,
                   count(*) FILTER (WHERE t.accepted) AS accepted,
                   count(*) FILTER (WHERE NOT t.accepted AND NOT t.redriven) - count(*) FILTER (WHERE t.redriven) AS ended,
                   count(*) FILTER (WHERE t.redriven) AS redriven,
                   max(t.user_id) AS user_id, min(t.user_id) AS other_user_id,
                   max(t.key_id::text) AS key_id,
                   max(t.after->>'model_id') AS model_id,
                   max((t.after->>'reserved_tokens')::integer) AS reserved_tokens,
                   nullif(concat_ws(' and ',
                       CASE WHEN count(*) FILTER (WHERE t.after->>'status' = 'completed') > 0 THEN 'completed' END,
                       CASE WHEN count(*) FILTER (WHERE t.after->>'status' = 'failed') > count(*) FILTER (WHERE t.redriven)
                            THEN 'failed' END,
                       CASE WHEN count(*) FILTER (WHERE t.after->>'status' = 'cancelled') > 0 THEN 'cancelled' END,
                       CASE WHEN count(*) FILTER (WHERE t.after->>'status' = 'expired') > 0 THEN 'expired' END), '') AS status,
                   nullif(sum((t.after->>'prompt_tokens')::integer), CASE WHEN bool_or(t.redriven) THEN 0 END) AS prompt_tokens,
                   nullif(sum((t.after->>'completion_tokens')::integer), CASE WHEN bool_or(t.redriven) THEN 0 END) AS completion_tokens,
                   coalesce(sum((t.before->>'prompt_tokens')::integer) FILTER (WHERE t.redriven), 0) AS undone_prompt_tokens,
                   coalesce(sum((t.before->>'completion_tokens')::integer) FILTER (WHERE t.redriven), 0) AS undone_completion_tokens
            FROM told t
            GROUP BY t.request_id
        )
        SELECT coalesce(r.user_id, a.user_id)::text, coalesce(r.request_id, a.request_id), NULL::text,
               CASE WHEN a.request_id IS NULL THEN 'audited' ELSE
                   format('accepted %s, ended %s, as %s; %s, key %s, %s, reserved %s, tokens %s + %s', a.accepted, a.ended, a.status,
                          a.user_id, a.key_id, a.model_id, a.reserved_tokens, a.prompt_tokens, a.completion_tokens) END,
               CASE WHEN r.request_id IS NULL THEN 'no request' ELSE
                   format('%s; %s, key %s, %s, reserved %s, tokens %s + %s', r.status, r.user_id, r.key_id, r.model_id,
                          r.reserved_tokens, r.prompt_tokens, r.completion_tokens) END
        FROM books_requests(every, today, touched) r
        FULL JOIN audited a ON a.request_id = r.request_id
        WHERE (every OR r.request_id IS NOT NULL)
          AND (r.request_id IS NULL
               OR (a.accepted, a.ended, a.user_id, a.other_user_id, a.key_id, a.model_id, a.reserved_tokens,
                   coalesce(a.status, r.status), a.prompt_tokens, a.completion_tokens)
                  IS DISTINCT FROM
                  (1, CASE WHEN r.completed_at IS NULL THEN 0 ELSE 1 END, r.user_id, r.user_id, r.key_id::text, r.model_id,
                   r.reserved_tokens, r.status,
                   CASE WHEN a.redriven = 0 THEN r.prompt_tokens
                        ELSE nullif(coalesce(r.prompt_tokens, 0) + a.undone_prompt_tokens, 0) END,
                   CASE WHEN a.redriven = 0 THEN r.completion_tokens
                        ELSE nullif(coalesce(r.completion_tokens, 0) + a.undone_completion_tokens, 0) END))
        LIMIT 100;
END $$;

-- 7. One inflight row for every unfinished request, in the same state, and none else; and its prompt.
CREATE OR REPLACE FUNCTION inflight_is_what_is_unfinished(every boolean, today uuid, touched uuid[])
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT r.user_id::text, r.request_id, NULL::text, format('an inflight row, %s, attempt %s', r.status, r.attempts), 'none'
        FROM books_requests(every, today, touched) r
        WHERE r.completed_at IS NULL AND NOT EXISTS (SELECT FROM inflight i WHERE i.request_id = r.request_id)
        UNION ALL
        SELECT i.user_id::text, i.request_id, NULL::text, coalesce(format('%s, attempt %s', r.status, r.attempts), 'no request'),
               format('%s, attempt %s', i.status, i.attempt)
        FROM inflight i
        LEFT JOIN requests_all r ON r.request_id = i.request_id
        WHERE (r.status, r.attempts, r.user_id) IS DISTINCT FROM (i.status, i.attempt, i.user_id)
        UNION ALL
        SELECT i.user_id::text, i.request_id, NULL::text, 'a prompt', 'none'
        FROM inflight i
        WHERE NOT EXISTS (SELECT FROM prompts p WHERE p.request_id = i.request_id)
        LIMIT 100;
END $$;

-- 8. Every completed request has its one result, and no other request has any.
CREATE OR REPLACE FUNCTION result_is_kept(every boolean, today uuid, touched uuid[])
    RETURNS TABLE (user_id text, request_id uuid, period text, expected text, actual text)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    -- Results have ids of their own time (of this day, where a test moves the clock).
    oldest uuid := least(today, uuidv7_floor(period_start('daily', clock_timestamp())));
BEGIN
    RETURN QUERY
        SELECT r.user_id::text, r.request_id, NULL::text, 'result ' || r.result_id, 'none'
        FROM books_requests(every, today, touched) r
        WHERE r.status = 'completed'
          AND NOT EXISTS (SELECT FROM results s WHERE s.result_id = r.result_id AND s.request_id = r.request_id)
          AND NOT EXISTS (SELECT FROM binary_results b WHERE b.result_id = r.result_id AND b.request_id = r.request_id)
        UNION ALL
        SELECT r.user_id::text, s.request_id, NULL::text, coalesce('result ' || r.result_id, 'no result'), 'result ' || s.result_id
        FROM results s
        LEFT JOIN requests_all r ON r.request_id = s.request_id
        WHERE (every OR s.result_id >= oldest)
          AND r.result_id IS DISTINCT FROM s.result_id
        LIMIT 100;
END $$;

CREATE OR REPLACE FUNCTION books_checked_to() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT CASE WHEN w.xact_id <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint THEN w.xact_id ELSE 0 END
    FROM rollup_watermarks w WHERE w.task = 'verify';
$$;
COMMENT ON FUNCTION books_checked_to() IS
    'Below which transaction the last clean check has seen everything; 0 where that cannot be: then all is checked.';

-- STABLE: every query in it, and in what it calls, sees the snapshot of the statement that called it, as in a
-- repeatable-read transaction.
CREATE OR REPLACE FUNCTION books_check(INOUT every boolean, OUT checked jsonb, OUT violations jsonb, OUT seen_to bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    today   uuid := uuidv7_floor(period_start('daily', clock_now()));
    since   bigint := books_checked_to();
    touched uuid[];
    -- More than these (the first check of all, say) cost more one by one than everything does.
    many    constant integer := 20000;
BEGIN
    seen_to := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    IF NOT every THEN
        touched := ARRAY(SELECT DISTINCT a.request_id FROM audit_log a
                         WHERE a.xact_id >= since AND a.request_id < today LIMIT many + 1);
        every := cardinality(touched) > many;
    END IF;
    checked := jsonb_build_object(
        'quotas', (SELECT count(*) FROM quotas q WHERE every OR q.reset_at > clock_now()),
        'requests', (SELECT count(*) FROM books_requests(every, today, touched)),
        'inflight', (SELECT count(*) FROM inflight));
    SELECT coalesce(jsonb_agg(to_jsonb(v)), '[]') INTO violations FROM (
        SELECT 'plan_is_whole' AS invariant, i.* FROM plan_is_whole() i
        UNION ALL SELECT 'quota_within_limit', i.* FROM quota_within_limit(every) i
        UNION ALL SELECT 'quota_reserved_is_the_sum', i.* FROM quota_reserved_is_the_sum(every) i
        UNION ALL SELECT 'quota_used_is_the_sum', i.* FROM quota_used_is_the_sum(every) i
        UNION ALL SELECT 'usage_is_the_sum', i.* FROM usage_is_the_sum(every, touched) i
        UNION ALL SELECT 'usage_adds_up', i.* FROM usage_adds_up(every) i
        UNION ALL SELECT 'request_settled_once', i.* FROM request_settled_once(every, today, touched) i
        UNION ALL SELECT 'inflight_is_what_is_unfinished', i.* FROM inflight_is_what_is_unfinished(every, today, touched) i
        UNION ALL SELECT 'result_is_kept', i.* FROM result_is_kept(every, today, touched) i
    ) AS v;
END $$;
COMMENT ON FUNCTION books_check(boolean) IS
    'Everything that breaks an invariant, as of one snapshot. every: whether everything was looked at; checked: how '
    'much that was; seen_to: transactions below this one are in it.';

CREATE OR REPLACE FUNCTION books_checked(seen_to bigint) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE rollup_watermarks w SET xact_id = seen_to, updated_at = clock_now() WHERE w.task = 'verify';
$$;
COMMENT ON FUNCTION books_checked(bigint) IS 'The books balanced up to here: the next check begins there.';
