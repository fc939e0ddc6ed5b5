-- What the minute's sweep does: nothing that was accepted is ever forgotten.

-- Claims whose worker has not answered in time go back to the queue; those without attempts left have failed, those that
-- were cancelled are. Requests past their lifetime that nobody has begun expire.
CREATE OR REPLACE FUNCTION request_sweep(at_most integer)
    RETURNS TABLE (requeued integer, failed integer, expired integer, cancelled integer)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    at   timestamptz := clock_now();
    ids  uuid[];
    done jsonb;
BEGIN
    -- The gates first, as everywhere.
    PERFORM FROM quota_plans p
    WHERE p.user_id IN (SELECT i.user_id FROM inflight i
                        WHERE i.status = 'processing' AND i.lease_until < at OR i.status = 'queued' AND i.expires_at <= at)
    ORDER BY p.user_id FOR NO KEY UPDATE;

    WITH lost AS (
        SELECT i.request_id FROM inflight i
        WHERE i.status = 'processing' AND i.lease_until < at AND i.cancelled_at IS NULL
          AND i.failures + 1 < i.max_attempts AND i.expires_at > at
        ORDER BY i.request_id LIMIT at_most
        FOR UPDATE SKIP LOCKED
    ), back AS (
        UPDATE inflight i SET
            status = 'queued', lease_until = NULL, dispatched_at = NULL,
            failures = i.failures + 1, lost = i.lost + 1, last_error = 'worker_lost'
        FROM lost WHERE i.request_id = lost.request_id
        RETURNING i.request_id
    )
    SELECT array_agg(b.request_id) INTO ids FROM back b;

    IF ids IS NOT NULL THEN
        UPDATE requests r SET status = 'queued', updated_at = at WHERE r.request_id = ANY (ids);
        INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
        SELECT 'rollup', 'request.requeued', r.user_id, r.request_id,
               jsonb_build_object('status', 'processing', 'attempt', r.attempts),
               jsonb_build_object('status', 'queued', 'error_code', 'worker_lost')
        FROM requests r WHERE r.request_id = ANY (ids);
    END IF;
    requeued := coalesce(cardinality(ids), 0);

    SELECT jsonb_agg(jsonb_build_object('request_id', o.request_id, 'attempt', o.attempt) || CASE
               WHEN o.status = 'queued' AND o.failures = 0 THEN jsonb_build_object(
                   'outcome', 'expired', 'error_code', 'request_expired', 'error_message',
                   'The request was not begun within its lifetime.')
               WHEN o.status = 'processing' AND o.failures + 1 >= o.max_attempts THEN jsonb_build_object(
                   'outcome', 'failed', 'error_code', 'worker_lost', 'error_message',
                   'The workers that took this request were lost, the last time with its last attempt.')
               ELSE jsonb_build_object('outcome', 'failed', 'error_code', 'request_expired', 'error_message',
                   format('The request was not answered within its lifetime; the last reason: %s.',
                          CASE o.status WHEN 'processing' THEN 'worker_lost' ELSE o.last_error END)) END)
    INTO done
    FROM (SELECT * FROM inflight i
          WHERE i.status = 'processing' AND i.lease_until < at
                AND (i.cancelled_at IS NOT NULL OR i.failures + 1 >= i.max_attempts OR i.expires_at <= at)
             OR i.status = 'queued' AND i.expires_at <= at
          ORDER BY i.request_id LIMIT at_most
          FOR UPDATE SKIP LOCKED) AS o;

    SELECT count(*) FILTER (WHERE s.status = 'failed'), count(*) FILTER (WHERE s.status = 'expired'),
           count(*) FILTER (WHERE s.status = 'cancelled')
    INTO failed, expired, cancelled
    FROM outcomes_settle(coalesce(done, '[]'), 'rollup') AS s WHERE s.kind = 'settled';
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION request_sweep(integer) IS
    'Takes back lost claims, and ends what has no attempts or no time left: at most so many of each. What that makes room '
    'for, request_dispatch sends.';

-- Requests that wait without a message and whose users' windows have room: marked and returned to be sent.
CREATE OR REPLACE FUNCTION request_dispatch(at_most integer)
    RETURNS TABLE (request_id uuid, user_id text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    users text[] := ARRAY(
        SELECT DISTINCT i.user_id FROM inflight i
        WHERE i.dispatched_at IS NULL AND coalesce(i.not_before, '-infinity') <= clock_now());
BEGIN
    -- Behind their gates: two sweeps, or a sweep and a submit, would each find the same room.
    PERFORM FROM quota_plans p WHERE p.user_id = ANY (users) ORDER BY p.user_id FOR NO KEY UPDATE;
    RETURN QUERY SELECT d.request_id, d.user_id FROM window_fill(users, at_most) AS d;
END $$;

-- Requests whose messages the queue seems to have lost: it holds fewer messages than have been out for longer than the
-- grace, within which its counts may not show them. The difference is sent again, oldest first. Messages of nobody
-- (unreadable ones, repeats) are in the queue's count and could hide a loss: so of what has been out for very long, one in
-- a thousand is sent in any case. Sending twice is harmless, the claim decides.
CREATE OR REPLACE FUNCTION request_redispatch(queue_depth integer, grace_seconds integer, long_seconds integer, at_most integer)
    RETURNS TABLE (request_id uuid, user_id text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    settled_before timestamptz := clock_now() - make_interval(secs => grace_seconds);
    fewer          bigint;
    stale          bigint;
BEGIN
    -- One after the other: two sweeps at once would each find the whole difference.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.redispatch'));
    SELECT count(*) - queue_depth,
           count(*) FILTER (WHERE i.status = 'queued' AND i.dispatched_at < clock_now() - make_interval(secs => long_seconds))
    INTO fewer, stale
    FROM inflight i WHERE i.dispatched_at < settled_before;
    RETURN QUERY
        UPDATE inflight i SET dispatched_at = clock_now()
        FROM (
            SELECT o.request_id FROM inflight o
            WHERE o.status = 'queued' AND o.dispatched_at < settled_before
            ORDER BY o.dispatched_at
            LIMIT least(at_most, greatest(fewer, least(stale, 1 + stale / 1000)))
            FOR UPDATE SKIP LOCKED
        ) AS missing
        WHERE i.request_id = missing.request_id
        RETURNING i.request_id, i.user_id::text;
END $$;

-- Requests that dead letters were about: those that wait for that message are returned to be sent again. What else there is
-- needs none: it is finished, at a worker, or waits for its turn.
CREATE OR REPLACE FUNCTION request_resend(ids uuid[])
    RETURNS TABLE (request_id uuid, user_id text)
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE inflight i SET dispatched_at = clock_now()
    FROM (SELECT w.request_id FROM inflight w
          WHERE w.request_id = ANY (ids) AND w.status = 'queued' AND w.dispatched_at IS NOT NULL
          ORDER BY w.request_id FOR UPDATE) AS waiting
    WHERE i.request_id = waiting.request_id
    RETURNING i.request_id, i.user_id;
$$;
