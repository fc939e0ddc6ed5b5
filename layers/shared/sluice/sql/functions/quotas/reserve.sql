-- Reserving quota at submit; settlements_end() gives it back. The caller holds the user lock.

-- Whether a request fits into every period; refusal is NULL if it does.
CREATE OR REPLACE FUNCTION quota_check(
    p_user_id text, p_at timestamptz, p_tokens integer, OUT refusal text, OUT detail jsonb
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    q       quotas;
    periods integer := 0;
    wait    interval;
BEGIN
    FOR q IN SELECT * FROM quota_state(p_user_id, p_at) LOOP
        periods := periods + 1;
        IF p_tokens > q.max_tokens OR q.max_requests < 1 THEN
            refusal := 'quota_too_small';
            detail := jsonb_build_object('period', q.quota_period, 'max_tokens', q.max_tokens,
                                         'max_requests', q.max_requests, 'tokens_needed', p_tokens);
            RETURN;
        ELSIF q.requests_used + 1 > q.max_requests
              OR q.tokens_used + q.tokens_reserved + p_tokens > q.max_tokens THEN
            refusal := 'quota_exceeded';
            wait := greatest(wait, q.reset_at - p_at);
        END IF;
    END LOOP;
    IF periods <> cardinality(quota_periods()) THEN
        -- A missing row must never mean "no limit".
        RAISE EXCEPTION 'the user has % quotas, not %', periods, cardinality(quota_periods());
    END IF;
    IF refusal IS NOT NULL THEN
        detail := jsonb_build_object('quotas', quota_counters(p_user_id, p_at),
                                     'retry_after', ceil(extract(epoch FROM wait)), 'tokens_needed', p_tokens);
    END IF;
END $$;
COMMENT ON FUNCTION quota_check(text, timestamptz, integer) IS
    'refusal: quota_too_small (the request can never fit), quota_exceeded (it fits after a reset), or NULL.';

-- Counts a request and reserves its tokens in every period; returns the counters as they are afterwards.
CREATE OR REPLACE FUNCTION quota_reserve(p_user_id text, p_at timestamptz, p_tokens integer) RETURNS jsonb
    LANGUAGE sql AS $$
    WITH reserved AS (
        UPDATE quotas q SET
            (requests_used, tokens_used, tokens_reserved, period_start, reset_at)
            = (SELECT n.requests_used + 1, n.tokens_used, n.tokens_reserved + p_tokens, n.period_start, n.reset_at
               FROM quota_at(q, p_at) AS n)
        WHERE q.user_id = p_user_id
        RETURNING q AS counter
    )
    SELECT jsonb_agg(quota_counter(r.counter, p_at)
                     ORDER BY array_position(quota_periods(), (r.counter).quota_period::text))
    FROM reserved r;
$$;
