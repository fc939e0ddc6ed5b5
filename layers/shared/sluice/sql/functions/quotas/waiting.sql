-- Why a request has to wait for room in a limit, and for how long. Only refusals ask this.

-- A limit that is in the way. kind: requests, tokens, amount. is_reserved: what is used alone would leave room, but
-- unfinished requests have reserved it.
CALL define_type('obstacle', $$
    kind text, period text, maximum numeric, used numeric, reserved numeric, is_reserved boolean, wait interval
$$);
-- What one unfinished request has reserved of a limit, in the limit's unit.
CALL define_type('reservation', $$request_id uuid, reserved numeric$$);

-- The one that is in the way for longer; of two that are so equally long, the one that is used up.
CREATE OR REPLACE FUNCTION obstacle_longer(a obstacle, b obstacle) RETURNS obstacle
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF a.wait IS NULL OR b.wait > a.wait OR b.wait = a.wait AND NOT b.is_reserved THEN
        RETURN b;
    END IF;
    RETURN a;
END $$;

-- Amounts of money as text: a JSON number may be read as a binary fraction.
CREATE OR REPLACE FUNCTION obstacle_figure(p_kind text, p_value numeric) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN CASE p_kind WHEN 'amount' THEN to_jsonb(trim_scale(p_value)::text) ELSE to_jsonb(p_value) END;

-- The members of a refusal's detail. code: p_limit || '_exceeded' (used up: wait for the reset), or p_limit ||
-- '_reserved' (wait for unfinished requests).
CREATE OR REPLACE FUNCTION obstacle_detail(o obstacle, p_limit text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object(
        'code', p_limit || CASE WHEN o.is_reserved THEN '_reserved' ELSE '_exceeded' END,
        'kind', o.kind, 'period', o.period, 'maximum', obstacle_figure(o.kind, o.maximum),
        'used', obstacle_figure(o.kind, o.used), 'reserved', obstacle_figure(o.kind, o.reserved),
        'retry_after', greatest(ceil(extract(epoch FROM o.wait)), 1));

CREATE OR REPLACE FUNCTION tokens_reserved_since(p_user_id text, p_since timestamptz) RETURNS reservation[]
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(
        SELECT (r.request_id, r.reserved_tokens)::reservation
        FROM inflight i JOIN requests r ON r.request_id = i.request_id
        WHERE i.user_id = p_user_id AND r.created_at >= p_since);
END $$;
COMMENT ON FUNCTION tokens_reserved_since(text, timestamptz) IS
    'What the user''s unfinished requests have reserved that were accepted since then.';

-- How fast a user's requests end: how many ended in how many seconds. seconds is the time for which the user has had
-- unfinished requests without a pause (ten minutes at most).
CREATE OR REPLACE FUNCTION requests_ended_lately(p_user_id text, OUT ended bigint, OUT seconds double precision)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    since timestamptz;
BEGIN
    SELECT greatest(min(coalesce(o.not_before, r.created_at)), clock_now() - interval '10 minutes') INTO since
    FROM inflight o JOIN requests r ON r.request_id = o.request_id
    WHERE o.user_id = p_user_id AND coalesce(o.not_before, '-infinity') <= clock_now();
    SELECT count(*) INTO ended FROM (
        SELECT FROM audit_log a
        WHERE a.user_id = p_user_id AND a.audit_id >= uuidv7_floor(since)
          AND a.action IN ('request.completed', 'request.failed')
        LIMIT 1000) AS counted;
    seconds := extract(epoch FROM clock_now() - since);
END $$;

CREATE OR REPLACE FUNCTION reservations_wait(
    p_user_id text, p_at timestamptz, p_reservations reservation[], p_needed numeric
)
    RETURNS interval
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    usual constant interval := interval '5 seconds';
    rate  record;
    last  record;
BEGIN
    -- In the order in which they are likely to end: those that may start now, then the others by their not_before.
    SELECT o.begins_at, o.ahead INTO last
    FROM (
        SELECT w.begins_at, w.request_id,
               sum(w.reserved) OVER in_order AS released,
               count(*) FILTER (WHERE w.begins_at <= p_at) OVER in_order AS ahead
        FROM (SELECT n.request_id, n.reserved, greatest(i.not_before, p_at) AS begins_at
              FROM unnest(p_reservations) AS n JOIN inflight i ON i.request_id = n.request_id) AS w
        WINDOW in_order AS (ORDER BY w.begins_at, w.request_id)
    ) AS o
    WHERE o.released >= p_needed
    ORDER BY o.begins_at, o.request_id LIMIT 1;
    rate := requests_ended_lately(p_user_id);
    RETURN coalesce(last.begins_at - p_at, interval '0')
           + CASE WHEN rate.ended > 0 AND rate.seconds > 0
                  THEN greatest(last.ahead, 1) * make_interval(secs => rate.seconds / rate.ended) ELSE usual END;
END $$;
COMMENT ON FUNCTION reservations_wait(text, timestamptz, reservation[], numeric) IS
    'After which time these unfinished requests are likely to have released so much: at the rate at which the user''s '
    'requests ended lately, or 5 seconds where none has ended. Requests that wait for their not_before release nothing '
    'before.';
