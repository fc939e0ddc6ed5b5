-- Reserving quota at submit. The caller holds the user lock.

-- Checks whether a request fits into every period. If it does, refusal is NULL and counters are the user's counters
-- with the request in them.
CREATE OR REPLACE FUNCTION quota_check(
    p_user_id text, p_at timestamptz, p_tokens integer, OUT refusal text, OUT detail jsonb, OUT counters quotas[]
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    q       quotas;
    missing obstacle;
    longest obstacle;
BEGIN
    FOR q IN SELECT * FROM quotas t WHERE t.user_id = p_user_id LOOP
        q := quota_at(q, p_at);
        IF p_tokens > q.max_tokens OR q.max_requests < 1 THEN
            refusal := 'quota_too_small';
            detail := jsonb_build_object('period', q.quota_period, 'max_tokens', q.max_tokens,
                                         'max_requests', q.max_requests, 'tokens_needed', p_tokens);
            RETURN;
        END IF;
        -- What is used stands in the way until the period ends; what unfinished requests hold, only until they end.
        missing := NULL;
        IF q.requests_used + 1 > q.max_requests THEN
            missing := ('requests', q.quota_period, q.max_requests, q.requests_used, 0, false, q.reset_at - p_at);
        ELSIF q.tokens_used + p_tokens > q.max_tokens THEN
            missing := ('tokens', q.quota_period, q.max_tokens, q.tokens_used, q.tokens_reserved, false,
                        q.reset_at - p_at);
        ELSIF q.tokens_used + q.tokens_reserved + p_tokens > q.max_tokens THEN
            missing := ('tokens', q.quota_period, q.max_tokens, q.tokens_used, q.tokens_reserved, true,
                        least(q.reset_at - p_at, reservations_wait(
                            p_user_id, p_at, tokens_reserved_since(p_user_id, q.period_start),
                            q.tokens_used + q.tokens_reserved + p_tokens - q.max_tokens)));
        END IF;
        IF missing.wait IS NOT NULL THEN
            refusal := 'quota_exceeded';
            longest := obstacle_longer(longest, missing);
        END IF;
        q.requests_used := q.requests_used + 1;
        q.tokens_reserved := q.tokens_reserved + p_tokens;
        counters := counters || q;
    END LOOP;
    IF cardinality(counters) IS DISTINCT FROM cardinality(quota_periods()) THEN
        -- A missing row must never mean "no limit".
        RAISE EXCEPTION 'the user has % quotas, not %', cardinality(counters), cardinality(quota_periods());
    END IF;
    IF refusal IS NOT NULL THEN
        detail := obstacle_detail(longest, 'quota')
            || jsonb_build_object('quotas', quota_counters(p_user_id, p_at), 'tokens_needed', p_tokens);
    END IF;
END $$;
COMMENT ON FUNCTION quota_check(text, timestamptz, integer) IS
    'refusal: quota_too_small (the request can never fit), quota_exceeded (it fits later: see obstacle_detail), or '
    'NULL.';

-- Begins the periods that contain this time, where they have not begun.
CREATE OR REPLACE FUNCTION quota_reset(p_user_id text, p_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE quotas q SET
        requests_used = n.requests_used, tokens_used = n.tokens_used, tokens_reserved = n.tokens_reserved,
        period_start = n.period_start, reset_at = n.reset_at
    FROM quotas o CROSS JOIN LATERAL quota_at(o, p_at) AS n
    WHERE q.user_id = p_user_id AND o.user_id = p_user_id AND q.quota_period = o.quota_period AND p_at >= q.reset_at;
END $$;
