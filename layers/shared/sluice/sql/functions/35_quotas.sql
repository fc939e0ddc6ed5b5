-- What a user may do, and how much of it is used.

CREATE OR REPLACE FUNCTION quota_state(for_user text, at timestamptz)
    RETURNS TABLE (
        period text, max_requests integer, requests_used integer, max_tokens bigint, tokens_used bigint,
        tokens_reserved bigint, is_override boolean, period_start timestamptz, reset_at timestamptz
    )
    LANGUAGE sql STABLE AS $$
    SELECT q.quota_period::text, q.max_requests,
           CASE WHEN at < q.reset_at THEN q.requests_used ELSE 0 END, q.max_tokens,
           CASE WHEN at < q.reset_at THEN q.tokens_used ELSE 0 END,
           CASE WHEN at < q.reset_at THEN q.tokens_reserved ELSE 0 END, q.is_override,
           CASE WHEN at < q.reset_at THEN q.period_start ELSE period_start(q.quota_period, at) END,
           CASE WHEN at < q.reset_at THEN q.reset_at ELSE period_end(q.quota_period, at) END
    FROM quotas q WHERE q.user_id = for_user
    ORDER BY array_position('{minute,daily,monthly}', q.quota_period::text);
$$;
COMMENT ON FUNCTION quota_state(text, timestamptz) IS
    'The counters as they are at a time: those of a period that is over count as empty (they are reset by the next request).';

CREATE OR REPLACE FUNCTION quota_report(for_user text) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT jsonb_build_object(
        'user_id', p.user_id, 'tier', p.tier, 'reset_frequency', p.reset_frequency,
        'max_unfinished', p.max_unfinished, 'dispatch_window', p.dispatch_window, 'is_override', p.is_override,
        'unfinished', (SELECT count(*) FROM inflight i WHERE i.user_id = p.user_id),
        'periods', (SELECT jsonb_agg(to_jsonb(s)) FROM quota_state(p.user_id, clock_now()) AS s))
    FROM quota_plans p WHERE p.user_id = for_user;
$$;
COMMENT ON FUNCTION quota_report(text) IS 'A user''s plan, limits and counters; NULL where there is no such user.';

-- The counters as submit tells of them: what is reserved counts as used.
CREATE OR REPLACE FUNCTION quota_gates(for_user text, at timestamptz) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_agg(jsonb_build_object(
        'period', s.period, 'max_requests', s.max_requests, 'requests_used', s.requests_used,
        'max_tokens', s.max_tokens, 'tokens_used', s.tokens_used + s.tokens_reserved,
        'reset_seconds', ceil(extract(epoch FROM s.reset_at - at))))
    FROM quota_state(for_user, at) AS s;
$$;

-- What audit rows of a changed plan show, before and after. The period's start says which period's books a lowered limit
-- may leave over-full (see the invariant quota_within_limit).
CREATE OR REPLACE FUNCTION quota_limits(for_user text) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'tier', p.tier, 'reset_frequency', p.reset_frequency,
        'max_unfinished', p.max_unfinished, 'dispatch_window', p.dispatch_window, 'is_override', p.is_override,
        'limits', (SELECT jsonb_object_agg(q.quota_period, jsonb_build_object(
                              'max_requests', q.max_requests, 'max_tokens', q.max_tokens,
                              'is_override', q.is_override, 'period_start', q.period_start))
                   FROM quotas q WHERE q.user_id = p.user_id))
    FROM quota_plans p WHERE p.user_id = for_user;
$$;
