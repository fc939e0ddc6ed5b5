-- What the minute's sweep does: nothing that was accepted is ever forgotten.

-- Claims whose worker has not answered in time go back to the queue; those without attempts left have failed. Requests
-- past their lifetime that nobody has begun expire.
CREATE OR REPLACE FUNCTION request_recover(at_most integer)
    RETURNS TABLE (requeued integer, failed integer, expired integer)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    at   timestamptz := clock_now();
    ids  uuid[];
    done jsonb;
BEGIN
    -- The gates first, as everywhere; what the settlement below takes again is then ours already.
    PERFORM FROM quota_plans p
    WHERE p.user_id IN (SELECT i.user_id FROM inflight i
                        WHERE i.status = 'processing' AND i.lease_until < at OR i.status = 'queued' AND i.expires_at <= at)
    ORDER BY p.user_id FOR NO KEY UPDATE;

    WITH lost AS (
        SELECT i.request_id FROM inflight i
        WHERE i.status = 'processing' AND i.lease_until < at AND i.attempt < i.max_attempts AND i.expires_at > at
        ORDER BY i.request_id LIMIT at_most
        FOR UPDATE SKIP LOCKED
    ), back AS (
        UPDATE inflight i SET status = 'queued', lease_until = NULL, dispatched_at = NULL
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

    SELECT jsonb_agg(jsonb_build_object(
               'request_id', i.request_id, 'attempt', i.attempt,
               'outcome', CASE WHEN i.status = 'queued' AND i.attempt = 0 THEN 'expired' ELSE 'failed' END,
               'error_code', CASE WHEN i.attempt >= i.max_attempts THEN 'worker_lost' ELSE 'request_expired' END,
               'error_message', CASE WHEN i.attempt >= i.max_attempts
                   THEN 'The workers that took this request were lost, each time, until its attempts were used up.'
                   ELSE 'The request was not answered within its lifetime.' END))
    INTO done
    FROM (SELECT * FROM inflight e
          WHERE e.status = 'processing' AND e.lease_until < at AND (e.attempt >= e.max_attempts OR e.expires_at <= at)
             OR e.status = 'queued' AND e.expires_at <= at
          ORDER BY e.request_id LIMIT at_most) AS i;

    failed := 0;
    expired := 0;
    IF done IS NOT NULL THEN
        SELECT count(*) FILTER (WHERE s.status = 'failed'), count(*) FILTER (WHERE s.status = 'expired')
        INTO failed, expired
        FROM request_settle(done, 'rollup') AS s WHERE s.kind = 'settled';
    END IF;
    RETURN NEXT;
END $$;

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
    RETURN QUERY SELECT d.request_id, d.user_id FROM request_dispatch_next(users, at_most) AS d;
END $$;

-- Requests whose messages the queue seems to have lost: it holds fewer messages than are out, so the difference, oldest
-- first and after a grace, is sent again. What has been out for very long is sent in any case: messages of nobody
-- (unreadable ones, repeats) are in the queue's count and would hide a loss. Sending twice is harmless, the claim decides.
CREATE OR REPLACE FUNCTION request_redispatch(queue_depth integer, grace_seconds integer, long_seconds integer, at_most integer)
    RETURNS TABLE (request_id uuid, user_id text)
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE inflight i SET dispatched_at = clock_now()
    FROM (
        SELECT o.request_id FROM inflight o
        WHERE o.status = 'queued' AND coalesce(o.not_before, '-infinity') <= clock_now()
          AND o.dispatched_at < clock_now() - make_interval(secs => grace_seconds)
        ORDER BY o.dispatched_at
        LIMIT least(at_most, greatest(
            (SELECT count(*) FROM inflight d WHERE d.dispatched_at IS NOT NULL) - queue_depth,
            (SELECT count(*) FROM inflight d
             WHERE d.status = 'queued' AND coalesce(d.not_before, '-infinity') <= clock_now()
               AND d.dispatched_at < clock_now() - make_interval(secs => long_seconds))))
        FOR UPDATE SKIP LOCKED
    ) AS lost
    WHERE i.request_id = lost.request_id
    RETURNING i.request_id, i.user_id;
$$;
