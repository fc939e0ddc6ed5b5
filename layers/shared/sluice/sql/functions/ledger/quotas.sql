-- Invariants of plans and quotas. Each is a query that finds its violations; see ledger_verify().

CALL define_type('violation', $$user_id text, request_id uuid, period text, expected text, actual text$$);

CREATE OR REPLACE FUNCTION limits_text(p_max_requests bigint, p_max_tokens bigint) RETURNS text
    LANGUAGE sql STABLE
    RETURN format('requests %s, tokens %s', coalesce(p_max_requests::text, 'unlimited'),
                  coalesce(p_max_tokens::text, 'unlimited'));

-- Every user has a plan, three counters with calendar-aligned periods, and terms of billing. Limits are the tier's or,
-- if they are the user's own, those in the latest audit row. A user with webhooks is marked as one who has some: else
-- requests would end without an event.
CREATE OR REPLACE FUNCTION plan_is_whole() RETURNS SETOF violation
    LANGUAGE sql STABLE AS $$
    WITH own AS MATERIALIZED (
        SELECT p.user_id, (SELECT a.after FROM audit_log a
                           WHERE a.user_id = p.user_id AND a.action = 'quota.changed'
                           ORDER BY a.audit_id DESC LIMIT 1) AS audited
        FROM quota_plans p
        WHERE p.is_override OR EXISTS (SELECT FROM quotas q WHERE q.user_id = p.user_id AND q.is_override)
    )
    SELECT u.user_id::text, NULL::uuid, NULL::text,
           format('a plan, %s quotas, terms from the first day', cardinality(quota_periods())),
           format('%s plan, %s quotas, terms from %s',
                  CASE WHEN p.user_id IS NULL THEN 'no' ELSE 'a' END, q.n, b.first_day)
    FROM users u
    LEFT JOIN quota_plans p ON p.user_id = u.user_id
    LEFT JOIN (SELECT q.user_id, count(*) AS n FROM quotas q GROUP BY q.user_id) AS q ON q.user_id = u.user_id
    LEFT JOIN (SELECT t.user_id, min(t.valid_from) AS first_day FROM billing_terms t GROUP BY t.user_id) AS b
        ON b.user_id = u.user_id
    WHERE p.user_id IS NULL OR q.n IS DISTINCT FROM cardinality(quota_periods())
       OR b.first_day IS NULL OR b.first_day > (u.created_at AT TIME ZONE 'UTC')::date
    UNION ALL
    SELECT p.user_id::text, NULL::uuid, NULL::text, format('has_webhooks %s', e.found),
           format('has_webhooks %s', p.has_webhooks)
    FROM quota_plans p
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM webhook_endpoints w
                                       WHERE w.user_id = p.user_id AND w.url IS NOT NULL) AS found) AS e
    WHERE p.has_webhooks <> e.found
    UNION ALL
    -- Without the mark, nobody would look for what waits.
    SELECT p.user_id::text, NULL::uuid, NULL::text, 'has_windows t', 'has_windows f'
    FROM quota_plans p
    WHERE NOT p.has_windows
      AND EXISTS (SELECT FROM inflight i WHERE i.user_id = p.user_id AND i.dispatched_at IS NULL AND i.priority > 0)
    UNION ALL
    SELECT p.user_id::text, NULL::uuid, NULL::text,
           format('%s unfinished, window %s, %s, %s bytes', w.max_unfinished, w.dispatch_window, w.reset_frequency,
                  coalesce(w.max_file_bytes::text, 'unlimited')),
           format('%s unfinished, window %s, %s, %s bytes', p.max_unfinished, p.dispatch_window, p.reset_frequency,
                  coalesce(p.max_file_bytes::text, 'unlimited'))
    FROM quota_plans p
    JOIN tiers t ON t.tier = p.tier
    LEFT JOIN own o ON o.user_id = p.user_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN 'max_unfinished' = ANY (plan_overrides(p)) THEN (o.audited->>'max_unfinished')::integer
                    ELSE t.max_unfinished END AS max_unfinished,
               CASE WHEN 'dispatch_window' = ANY (plan_overrides(p)) THEN (o.audited->>'dispatch_window')::integer
                    ELSE t.dispatch_window END AS dispatch_window,
               CASE WHEN 'reset_frequency' = ANY (plan_overrides(p)) THEN o.audited->>'reset_frequency'
                    ELSE t.reset_frequency END AS reset_frequency,
               CASE WHEN 'max_file_bytes' = ANY (plan_overrides(p)) THEN (o.audited->>'max_file_bytes')::bigint
                    ELSE t.max_file_bytes END AS max_file_bytes
    ) AS w
    WHERE (p.max_unfinished, p.dispatch_window, p.reset_frequency, p.max_file_bytes)
          IS DISTINCT FROM (w.max_unfinished, w.dispatch_window, w.reset_frequency, w.max_file_bytes)
    UNION ALL
    SELECT q.user_id::text, NULL::uuid, q.quota_period::text,
           format('%s to %s', period_start(q.quota_period, q.period_start), period_end(q.quota_period, q.period_start)),
           format('%s to %s', q.period_start, q.reset_at)
    FROM quotas q
    WHERE (q.period_start, q.reset_at)
          <> (period_start(q.quota_period, q.period_start), period_end(q.quota_period, q.period_start))
    UNION ALL
    SELECT q.user_id::text, NULL::uuid, q.quota_period::text,
           limits_text(w.max_requests, w.max_tokens), limits_text(q.max_requests, q.max_tokens)
    FROM quotas q
    JOIN quota_plans p ON p.user_id = q.user_id
    LEFT JOIN tier_limits l ON l.tier = p.tier AND l.quota_period = q.quota_period
    LEFT JOIN own o ON o.user_id = q.user_id
    CROSS JOIN LATERAL (SELECT o.audited->'limits'->q.quota_period AS limits) AS a
    CROSS JOIN LATERAL (
        SELECT CASE WHEN 'max_requests' = ANY (quota_overrides(q)) THEN (a.limits->>'max_requests')::integer
                    ELSE l.max_requests END AS max_requests,
               CASE WHEN 'max_tokens' = ANY (quota_overrides(q)) THEN (a.limits->>'max_tokens')::bigint
                    ELSE l.max_tokens END AS max_tokens
    ) AS w
    WHERE (q.max_requests, q.max_tokens) IS DISTINCT FROM (w.max_requests, w.max_tokens)
       OR q.is_override AND a.limits IS NULL
    LIMIT 100;
$$;

-- used + reserved ≤ limit, unless the limit was lowered in this period, or a model reported more than was reserved.
CREATE OR REPLACE FUNCTION quota_within_limit(p_full boolean) RETURNS SETOF violation
    LANGUAGE sql STABLE AS $$
    SELECT q.user_id::text, NULL::uuid, q.quota_period::text,
           'at most ' || limits_text(a.max_requests, a.max_tokens::bigint),
           format('requests %s, tokens %s', q.requests_used, q.tokens_used + q.tokens_reserved)
    FROM quotas q
    CROSS JOIN LATERAL (
        -- The highest limit that applied in the period, plus what audited overruns have added.
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
      AND (p_full OR q.reset_at > clock_now())
    LIMIT 100;
$$;

-- reserved = the sum over unfinished requests of the counter's period.
CREATE OR REPLACE FUNCTION quota_reserved_is_the_sum(p_full boolean) RETURNS SETOF violation
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
    WHERE q.tokens_reserved <> coalesce(s.reserved, 0) AND (p_full OR q.reset_at > clock_now())
    LIMIT 100;
$$;

-- used = the sum over the requests of the counter's period: the number of all, and the tokens of those that have ended.
CREATE OR REPLACE FUNCTION quota_used_is_the_sum(p_full boolean) RETURNS SETOF violation
    LANGUAGE sql STABLE AS $$
    WITH spans AS MATERIALIZED (
        SELECT q.*, uuidv7_floor(q.period_start) AS low, uuidv7_floor(q.reset_at) AS high
        FROM quotas q WHERE p_full OR q.reset_at > clock_now()
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
