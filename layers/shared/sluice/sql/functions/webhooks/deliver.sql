-- Delivering events: a claimer takes those that are due, has them sent, and settles. The schedule is in the rows; a
-- message only wakes a claimer up.

-- An event that is to be sent now. claimed_at: the timestamp of this attempt. old_secret: signs too.
CALL define_type('webhook_claim', $$
    event_id uuid, attempt smallint, endpoint_id uuid, url text, event_type text, data_id text,
    created_at timestamptz, secret text, old_secret text, claimed_at timestamptz
$$);
-- What became of an attempt:
--   status_code  that the receiver answered; NULL: none
--   cause        why it failed: status, redirect, gone, timeout, unreachable, tls, refused_address; NULL: it was
--                delivered; released: it was not sent, and counts as no attempt
--   retry_after  seconds that the receiver asked for
CALL define_type('webhook_outcome', $$
    event_id uuid, attempt smallint, status_code smallint, cause text, latency_ms integer, retry_after double precision
$$);
-- state: delivered, pending, dead, or superseded: the lease had ended, and another claimer has the event.
-- delay_seconds: pending: until the next attempt.
CALL define_type('webhook_settled', $$event_id uuid, state text, delay_seconds double precision$$);
CALL define_type('webhook_recovery', $$due integer, dead integer$$);

CREATE OR REPLACE FUNCTION webhook_claim(p_limit integer, p_lease_seconds double precision) RETURNS SETOF webhook_claim
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at    constant timestamptz := clock_now();
    ends  constant timestamptz := at + make_interval(secs => p_lease_seconds);
    rules constant record := webhook_rules();
    room  integer := p_limit;
    taken integer;
    ready record;
    w     webhook_endpoints;
BEGIN
    -- Endpoints with events that are due, the longest waiting first: from one pending event to the next endpoint's in
    -- the index, however many events an endpoint has.
    FOR ready IN
        WITH RECURSIVE waiting AS (
            (SELECT v.endpoint_id FROM webhook_events v WHERE v.state = 'pending' ORDER BY v.endpoint_id LIMIT 1)
            UNION ALL
            SELECT (SELECT v.endpoint_id FROM webhook_events v
                    WHERE v.state = 'pending' AND v.endpoint_id > p.endpoint_id ORDER BY v.endpoint_id LIMIT 1)
            FROM waiting p WHERE p.endpoint_id IS NOT NULL
        )
        SELECT p.endpoint_id, f.due_at
        FROM waiting p
        CROSS JOIN LATERAL (SELECT min(v.next_attempt_at) AS due_at FROM webhook_events v
                            WHERE v.state = 'pending' AND v.endpoint_id = p.endpoint_id) AS f
        WHERE p.endpoint_id IS NOT NULL AND f.due_at <= at
        ORDER BY f.due_at, p.endpoint_id
    LOOP
        EXIT WHEN room <= 0;
        -- Whoever has the row is claiming or settling for this endpoint: its events are left to the next claim.
        SELECT * INTO w FROM webhook_endpoints e WHERE e.endpoint_id = ready.endpoint_id FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND OR w.disabled_at IS NOT NULL OR w.paused_until > at;
        RETURN QUERY
            WITH due AS (
                SELECT v.event_id FROM webhook_events v
                WHERE v.state = 'pending' AND v.endpoint_id = w.endpoint_id AND v.next_attempt_at <= at
                  AND v.attempts < v.max_attempts AND v.expires_at > at
                ORDER BY v.next_attempt_at, v.event_id
                LIMIT greatest(0, least(
                    room,
                    CASE WHEN w.failures >= rules.failures THEN 1 ELSE w.max_concurrency END
                    - (SELECT count(*) FROM webhook_events l
                       WHERE l.endpoint_id = w.endpoint_id AND l.leased_until > at),
                    rules.most_at_once
                    - (SELECT count(*) FROM webhook_endpoints o JOIN webhook_events l ON l.endpoint_id = o.endpoint_id
                       WHERE o.user_id = w.user_id AND l.leased_until > at)))
                FOR UPDATE SKIP LOCKED
            ), taken AS (
                UPDATE webhook_events v SET attempts = v.attempts + 1, leased_until = ends, next_attempt_at = ends
                FROM due WHERE v.event_id = due.event_id
                RETURNING v.*, old.leased_until AS lost_lease
            ), lost AS (
                -- Its claimer is gone. The event may have been sent, or not.
                INSERT INTO webhook_deliveries (event_id, attempt, at, cause)
                SELECT t.event_id, t.attempts - 1, t.lost_lease, 'lost' FROM taken t WHERE t.lost_lease IS NOT NULL
                ON CONFLICT DO NOTHING
            )
            SELECT t.event_id, t.attempts, t.endpoint_id, coalesce(t.url, w.url), t.event_type::text, t.data_id::text,
                   t.created_at, w.secret, CASE WHEN w.old_secret_until > at THEN w.old_secret END, at
            FROM taken t;
        GET DIAGNOSTICS taken = ROW_COUNT;
        room := room - taken;
    END LOOP;
END $$;
COMMENT ON FUNCTION webhook_claim(integer, double precision) IS
    'Claims events that are due, for as long as the lease: no more of an endpoint or a user at once than they may '
    'have, one of an endpoint that has failed too often, and none while that is paused. Every claim is an attempt.';

CREATE OR REPLACE FUNCTION webhook_settle(p_outcomes jsonb) RETURNS SETOF webhook_settled
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at       constant timestamptz := clock_now();
    outcomes constant webhook_outcome[] := ARRAY(
        SELECT o FROM jsonb_populate_recordset(NULL::webhook_outcome, p_outcomes) AS o);
    o        webhook_outcome;
    v        webhook_events;
BEGIN
    -- Endpoints before events, as everywhere, and each in the order of its id.
    PERFORM FROM webhook_endpoints w
    WHERE w.endpoint_id IN (SELECT e.endpoint_id FROM unnest(outcomes) AS s JOIN webhook_events e USING (event_id))
    ORDER BY w.endpoint_id FOR NO KEY UPDATE;
    FOR o IN SELECT s.* FROM unnest(outcomes) AS s ORDER BY s.event_id LOOP
        SELECT * INTO v FROM webhook_events e WHERE e.event_id = o.event_id FOR UPDATE;
        -- leased_until is NULL where it was settled already, or ended in another way meanwhile.
        IF v.attempts = o.attempt AND v.last_cause IN ('disabled', 'deleted') AND o.cause IS DISTINCT FROM 'released'
           AND NOT EXISTS (SELECT FROM webhook_deliveries d WHERE (d.event_id, d.attempt) = (o.event_id, o.attempt))
        THEN
            -- Its endpoint was disabled while it was being sent: it is listed, and if it arrived, it is delivered.
            INSERT INTO webhook_deliveries (event_id, attempt, at, status_code, cause, latency_ms)
            VALUES (o.event_id, o.attempt, at, o.status_code, o.cause, o.latency_ms);
            IF o.cause IS NULL THEN
                v := webhook_event_end(v.event_id, NULL, at);
            END IF;
            RETURN NEXT ROW(v.event_id, v.state, NULL)::webhook_settled;
            CONTINUE;
        ELSIF v.attempts IS DISTINCT FROM o.attempt OR v.leased_until IS NULL THEN
            RETURN NEXT ROW(o.event_id, 'superseded', NULL)::webhook_settled;
            CONTINUE;
        END IF;
        v := webhook_attempt_end(v, o, at);
        RETURN NEXT ROW(v.event_id, v.state, CASE WHEN v.state = 'pending' THEN
            extract(epoch FROM v.next_attempt_at - at) END)::webhook_settled;
    END LOOP;
END $$;
COMMENT ON FUNCTION webhook_settle(jsonb) IS 'p_outcomes: an array of objects with the attributes of webhook_outcome.';

-- The steps -----------------------------------------------------------------------------------------------------------

-- What an attempt makes of its event and of the endpoint. The caller has locked both.
CREATE OR REPLACE FUNCTION webhook_attempt_end(v webhook_events, o webhook_outcome, p_at timestamptz)
    RETURNS webhook_events
    LANGUAGE plpgsql AS $$
DECLARE
    rules   constant record := webhook_rules();
    -- Since it was last redelivered by hand, which begins the schedule again.
    turn    constant integer := v.attempts - (v.max_attempts - webhook_attempts());
    pause   double precision;
    next_at timestamptz;
BEGIN
    IF o.cause = 'released' THEN
        UPDATE webhook_events e SET
            leased_until = NULL, max_attempts = e.max_attempts + 1,
            next_attempt_at = p_at + make_interval(secs => coalesce(o.retry_after, 5))
        WHERE e.event_id = v.event_id RETURNING * INTO v;
        RETURN v;
    END IF;
    INSERT INTO webhook_deliveries (event_id, attempt, at, status_code, cause, latency_ms)
    VALUES (v.event_id, o.attempt, p_at, o.status_code, o.cause, o.latency_ms);
    PERFORM webhook_endpoint_note(v, o, p_at);
    pause := rules.pauses[greatest(turn, 1)] * (1 + 0.1 * random());
    IF o.retry_after > pause THEN
        pause := least(o.retry_after, 86400);
    END IF;
    next_at := p_at + make_interval(secs => pause);
    IF o.cause IS NULL OR o.cause = 'gone' OR v.attempts >= v.max_attempts OR next_at >= v.expires_at THEN
        v := webhook_event_end(v.event_id, o.cause, p_at);
    ELSE
        UPDATE webhook_events e SET leased_until = NULL, next_attempt_at = next_at, last_cause = o.cause
        WHERE e.event_id = v.event_id RETURNING * INTO v;
    END IF;
    RETURN v;
END $$;

-- p_cause: why it is dead; NULL: it was delivered.
CREATE OR REPLACE FUNCTION webhook_event_end(p_event_id uuid, p_cause text, p_at timestamptz) RETURNS webhook_events
    LANGUAGE sql AS $$
    UPDATE webhook_events e SET
        state = CASE WHEN p_cause IS NULL THEN 'delivered' ELSE 'dead' END, ended_at = p_at, leased_until = NULL,
        last_cause = p_cause
    WHERE e.event_id = p_event_id
    RETURNING e.*;
$$;

-- The circuit of an endpoint. The URLs that requests name are as many receivers as there are requests: they have none,
-- and neither do tests.
CREATE OR REPLACE FUNCTION webhook_endpoint_note(v webhook_events, o webhook_outcome, p_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    rules constant record := webhook_rules();
BEGIN
    IF v.url IS NOT NULL OR v.request_id IS NULL THEN
        RETURN;
    ELSIF o.cause IS NULL THEN
        UPDATE webhook_endpoints w SET failures = 0, paused_until = NULL
        WHERE w.endpoint_id = v.endpoint_id AND w.failures > 0;
    ELSIF o.cause = 'gone' THEN
        PERFORM webhook_disable(v.endpoint_id, 'gone', 'webhooks', NULL, p_at);
    ELSE
        UPDATE webhook_endpoints w SET
            failures = w.failures + 1,
            paused_until = greatest(
                w.paused_until,
                CASE WHEN w.failures + 1 >= rules.failures THEN p_at + make_interval(secs => least(
                    rules.first_pause * 2.0 ^ least(w.failures + 1 - rules.failures, 10), rules.longest_pause)) END,
                CASE WHEN o.retry_after > 0 THEN p_at + make_interval(secs => least(o.retry_after, 3600)) END)
        WHERE w.endpoint_id = v.endpoint_id;
    END IF;
END $$;

-- Nothing more is sent to the endpoint, and what was to be sent is dead. The caller has locked the endpoint.
CREATE OR REPLACE FUNCTION webhook_disable(
    p_endpoint_id uuid, p_reason text, p_actor text, p_key_id uuid, p_at timestamptz
)
    RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    w webhook_endpoints;
BEGIN
    UPDATE webhook_endpoints e SET disabled_at = p_at, disabled_reason = p_reason, updated_at = p_at
    WHERE e.endpoint_id = p_endpoint_id AND e.disabled_at IS NULL
    RETURNING * INTO w;
    IF FOUND THEN
        PERFORM webhook_events_drop(p_endpoint_id, 'disabled', p_at);
        PERFORM audit_write(p_actor, ARRAY[ROW(
            'webhook.disabled', w.user_id, p_key_id, NULL, NULL,
            jsonb_build_object('endpoint_id', w.endpoint_id, 'reason', p_reason))::audit_entry]);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION webhook_events_drop(p_endpoint_id uuid, p_cause text, p_at timestamptz) RETURNS void
    LANGUAGE sql AS $$
    UPDATE webhook_events v SET state = 'dead', ended_at = p_at, leased_until = NULL, last_cause = p_cause
    WHERE v.state = 'pending' AND v.endpoint_id = p_endpoint_id;
$$;

-- Scheduled -----------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION webhook_recover(p_limit integer) RETURNS webhook_recovery
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at     constant timestamptz := clock_now();
    result webhook_recovery;
BEGIN
    WITH over AS (
        SELECT v.event_id, v.attempts, v.leased_until FROM webhook_events v
        WHERE v.state = 'pending' AND v.next_attempt_at <= at
          AND (v.attempts >= v.max_attempts OR v.expires_at <= at
               -- It was disabled or deleted while another transaction wrote the event.
               OR NOT EXISTS (SELECT FROM webhook_endpoints w
                              WHERE w.endpoint_id = v.endpoint_id AND w.disabled_at IS NULL))
        LIMIT p_limit FOR UPDATE OF v SKIP LOCKED
    ), lost AS (
        INSERT INTO webhook_deliveries (event_id, attempt, at, cause)
        SELECT o.event_id, o.attempts, o.leased_until, 'lost' FROM over o WHERE o.leased_until IS NOT NULL
        ON CONFLICT DO NOTHING
    ), ended AS (
        UPDATE webhook_events v SET
            state = 'dead', ended_at = at, leased_until = NULL,
            last_cause = CASE WHEN o.leased_until IS NULL THEN coalesce(v.last_cause, 'expired') ELSE 'lost' END
        FROM over o WHERE v.event_id = o.event_id
        RETURNING v.event_id
    )
    SELECT count(*) INTO result.dead FROM ended;
    SELECT count(*) INTO result.due FROM (
        SELECT FROM webhook_events v WHERE v.state = 'pending' AND v.next_attempt_at <= at LIMIT p_limit) AS due;
    RETURN result;
END $$;
COMMENT ON FUNCTION webhook_recover(integer) IS
    'Ends events whose last attempt was lost or whose time is over; returns how many, and how many are due now.';

CREATE OR REPLACE FUNCTION webhook_expire(p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    deleted integer;
BEGIN
    DELETE FROM webhook_events v USING (
        SELECT e.event_id FROM webhook_events e WHERE e.ended_at < clock_now() - (webhook_rules()).kept
        ORDER BY e.ended_at LIMIT p_limit FOR UPDATE SKIP LOCKED) AS old
    WHERE v.event_id = old.event_id;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    UPDATE webhook_endpoints w SET old_secret = NULL, old_secret_until = NULL
    FROM (SELECT e.endpoint_id FROM webhook_endpoints e
          WHERE e.old_secret_until <= clock_now() FOR NO KEY UPDATE SKIP LOCKED) AS past
    WHERE w.endpoint_id = past.endpoint_id;
    RETURN deleted;
END $$;
COMMENT ON FUNCTION webhook_expire(integer) IS
    'Deletes events that ended long ago, with their deliveries, and secrets that count no longer; returns how many '
    'events.';
