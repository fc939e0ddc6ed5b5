-- What a user may do, and how much of it is used.

-- A counter row as it is at the given time: if its period is over, it counts as empty. This is the only place where
-- counters are reset.
CREATE OR REPLACE FUNCTION quota_at(q quotas, p_at timestamptz) RETURNS quotas
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_at >= q.reset_at THEN
        q.requests_used := 0;
        q.tokens_used := 0;
        q.tokens_reserved := 0;
        q.period_start := period_start(q.quota_period, p_at);
        q.reset_at := period_end(q.quota_period, p_at);
    END IF;
    RETURN q;
END $$;

-- Whether a counter, as it is at the given time, has room for one more request with so many tokens.
CREATE OR REPLACE FUNCTION quota_fits(q quotas, p_at timestamptz, p_tokens integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN p_at >= q.reset_at
                THEN coalesce(q.max_requests >= 1, true) AND coalesce(q.max_tokens >= p_tokens, true)
                ELSE coalesce(q.max_requests >= q.requests_used + 1, true)
                     AND coalesce(q.max_tokens >= q.tokens_used + q.tokens_reserved + p_tokens, true) END;

-- Which limits are the user's own. A row that the previous version of the code wrote does not name them: all are.
CREATE OR REPLACE FUNCTION quota_overrides(q quotas) RETURNS varchar[]
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN q.is_override AND q.overrides = '{}' THEN '{max_requests,max_tokens}' ELSE q.overrides END;

CREATE OR REPLACE FUNCTION plan_overrides(p quota_plans) RETURNS varchar[]
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN p.is_override AND p.overrides = '{}' THEN '{reset_frequency,max_unfinished,dispatch_window}'
                ELSE p.overrides END;

CREATE OR REPLACE FUNCTION quota_state(p_user_id text, p_at timestamptz) RETURNS SETOF quotas
    LANGUAGE sql STABLE AS $$
    SELECT n.* FROM quotas q CROSS JOIN LATERAL quota_at(q, p_at) AS n
    WHERE q.user_id = p_user_id
    ORDER BY array_position(quota_periods(), q.quota_period::text);
$$;
COMMENT ON FUNCTION quota_state(text, timestamptz) IS
    'The user''s counters as they are at the given time, shortest period first.';

-- The counters as submit reports them: what is reserved counts as used.
CREATE OR REPLACE FUNCTION quota_counter(q quotas, p_at timestamptz) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_object(
        'period', q.quota_period, 'max_requests', q.max_requests, 'requests_used', q.requests_used,
        'max_tokens', q.max_tokens, 'tokens_used', q.tokens_used + q.tokens_reserved,
        'reset_seconds', ceil(date_part('epoch', q.reset_at - p_at))::integer);

CREATE OR REPLACE FUNCTION quota_counters(p_user_id text, p_at timestamptz) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_agg(quota_counter(s, p_at)) FROM quota_state(p_user_id, p_at) AS s;
$$;

CREATE OR REPLACE FUNCTION quota_report(p_user_id text) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT jsonb_build_object(
        'user_id', p.user_id, 'tier', p.tier, 'reset_frequency', p.reset_frequency,
        'max_unfinished', p.max_unfinished, 'dispatch_window', p.dispatch_window, 'is_override', p.is_override,
        'overrides', plan_overrides(p), 'max_file_bytes', p.max_file_bytes, 'file_bytes', file_bytes_used(p.user_id),
        'unfinished', (SELECT count(*) FROM inflight i WHERE i.user_id = p.user_id),
        'periods', (SELECT jsonb_agg(jsonb_build_object(
                               'period', s.quota_period, 'max_requests', s.max_requests,
                               'requests_used', s.requests_used, 'max_tokens', s.max_tokens,
                               'tokens_used', s.tokens_used, 'tokens_reserved', s.tokens_reserved,
                               'is_override', s.is_override, 'overrides', quota_overrides(s),
                               'period_start', s.period_start, 'reset_at', s.reset_at))
                    FROM quota_state(p.user_id, clock_now()) AS s),
        'budgets', budget_report(p.user_id, clock_now()))
    FROM quota_plans p WHERE p.user_id = p_user_id;
$$;
COMMENT ON FUNCTION quota_report(text) IS 'A user''s plan, limits and counters; NULL if there is no such user.';

-- What the audit row of a changed plan shows, before and after the change. period_start says in which period more may
-- be used than a lowered limit allows (see the invariant quota_within_limit).
CREATE OR REPLACE FUNCTION quota_limits(p_user_id text) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'tier', p.tier, 'reset_frequency', p.reset_frequency,
        'max_unfinished', p.max_unfinished, 'dispatch_window', p.dispatch_window, 'is_override', p.is_override,
        'overrides', plan_overrides(p), 'max_file_bytes', p.max_file_bytes,
        'limits', (SELECT jsonb_object_agg(q.quota_period, jsonb_build_object(
                              'max_requests', q.max_requests, 'max_tokens', q.max_tokens,
                              'is_override', q.is_override, 'overrides', quota_overrides(q),
                              'period_start', q.period_start))
                   FROM quotas q WHERE q.user_id = p.user_id))
    FROM quota_plans p WHERE p.user_id = p_user_id;
$$;
