-- The recovery task, every minute: requests that were left behind by a crash or a lost message go on, and those without
-- attempts or lifetime left end.

CALL define_type('recovery', $$requeued integer, failed integer, expired integer, cancelled integer$$);

-- Requests whose worker did not answer in time go back to the queue. Without attempts or lifetime left they fail; if
-- their cancellation was requested, they are cancelled. Queued requests past their lifetime expire, or fail if an
-- attempt of theirs has failed.
CREATE OR REPLACE FUNCTION request_recover(p_limit integer) RETURNS recovery
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at       timestamptz := clock_now();
    overdue  outcome[];
    result   recovery;
BEGIN
    PERFORM users_lock(ARRAY(
        SELECT DISTINCT i.user_id FROM inflight i
        WHERE i.status = 'processing' AND i.lease_until < at OR i.status = 'queued' AND i.expires_at <= at));
    result.requeued := lost_requeue(p_limit, at);
    overdue := overdue_outcomes(p_limit, at);
    PERFORM attempts_lost(ARRAY(
        SELECT i.request_id FROM unnest(overdue) AS o JOIN inflight i ON i.request_id = o.request_id
        WHERE i.status = 'processing'), at);
    SELECT count(*) FILTER (WHERE s.status = 'failed'), count(*) FILTER (WHERE s.status = 'expired'),
           count(*) FILTER (WHERE s.status = 'cancelled')
    INTO result.failed, result.expired, result.cancelled
    FROM outcomes_settle(overdue, 'rollup') AS s WHERE s.kind = 'settled';
    RETURN result;
END $$;
COMMENT ON FUNCTION request_recover(integer) IS
    'Takes back lost claims, and ends requests without attempts or lifetime left, at most p_limit of each. Call '
    'request_dispatch afterwards, for the requests that now have room in a dispatch window.';

-- The steps -----------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION lost_requeue(p_limit integer, p_at timestamptz) RETURNS integer
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    ids uuid[];
BEGIN
    WITH lost AS (
        SELECT i.request_id FROM inflight i
        WHERE i.status = 'processing' AND i.lease_until < p_at AND i.cancel_requested_at IS NULL
          AND i.failed_attempts + 1 < i.max_attempts AND i.expires_at > p_at
        ORDER BY i.request_id LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ), requeued AS (
        UPDATE inflight i SET
            status = 'queued', lease_until = NULL, dispatched_at = NULL,
            failed_attempts = i.failed_attempts + 1, lost_attempts = i.lost_attempts + 1, last_error = 'worker_lost'
        FROM lost WHERE i.request_id = lost.request_id
        RETURNING i.request_id
    )
    SELECT array_agg(q.request_id) INTO ids FROM requeued q;

    IF ids IS NOT NULL THEN
        PERFORM attempts_lost(ids, p_at);
        UPDATE requests r SET status = 'queued', updated_at = p_at WHERE r.request_id = ANY (ids);
        PERFORM audit_write('rollup', array_agg(ROW(
            'request.requeued', r.user_id, NULL, r.request_id,
            jsonb_build_object('status', 'processing', 'attempt', r.attempts),
            jsonb_build_object('status', 'queued', 'error_code', 'worker_lost'))::audit_entry))
        FROM requests r WHERE r.request_id = ANY (ids);
    END IF;
    RETURN coalesce(cardinality(ids), 0);
END $$;

-- The outcomes of requests that end without an answer from a worker.
CREATE OR REPLACE FUNCTION overdue_outcomes(p_limit integer, p_at timestamptz) RETURNS outcome[]
    LANGUAGE sql AS $$
    SELECT outcomes_read(coalesce(jsonb_agg(jsonb_build_object('request_id', o.request_id, 'attempt', o.attempt) || CASE
               WHEN o.status = 'queued' AND o.failed_attempts = 0 THEN jsonb_build_object(
                   'outcome', 'expired', 'error_code', 'request_expired',
                   'error_message', 'The request was not started within its lifetime.')
               WHEN o.status = 'processing' AND o.failed_attempts + 1 >= o.max_attempts THEN jsonb_build_object(
                   'outcome', 'failed', 'error_code', 'worker_lost',
                   'error_message',
                   'The workers that took this request were lost, including the one of its last attempt.')
               ELSE jsonb_build_object(
                   'outcome', 'failed', 'error_code', 'request_expired',
                   'error_message',
                   format('The request was not answered within its lifetime; the last reason: %s.',
                          CASE o.status WHEN 'processing' THEN 'worker_lost' ELSE o.last_error END)) END),
           '[]'))
    FROM (SELECT * FROM inflight i
          WHERE i.status = 'processing' AND i.lease_until < p_at
                AND (i.cancel_requested_at IS NOT NULL
                     OR i.failed_attempts + 1 >= i.max_attempts
                     OR i.expires_at <= p_at)
             OR i.status = 'queued' AND i.expires_at <= p_at
          ORDER BY i.request_id LIMIT p_limit
          FOR UPDATE SKIP LOCKED) AS o;
$$;

-- Messages ------------------------------------------------------------------------------------------------------------

-- Marks requests as dispatched that wait without a message and have room in their users' dispatch windows, and returns
-- them so that their messages are sent.
CREATE OR REPLACE FUNCTION request_dispatch(p_limit integer) RETURNS SETOF dispatched_request
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    users text[] := ARRAY(
        SELECT DISTINCT i.user_id FROM inflight i
        WHERE i.dispatched_at IS NULL AND i.follows IS NULL
          AND coalesce(i.not_before, '-infinity') <= clock_now());
BEGIN
    -- Under the user locks: otherwise two recovery tasks, or a recovery task and a submit, would both use the same
    -- room.
    PERFORM users_lock(users);
    PERFORM windows_promote(p_limit);
    RETURN QUERY SELECT * FROM dispatch_waiting(users, p_limit, NULL, 0);
    RETURN QUERY SELECT * FROM dispatch_fairly(users, p_limit);
END $$;

-- Requests that must be answered within their completion windows leave the waiting class, those first that are due
-- first. Followers are promoted as well: whoever they follow is, too (see flight_hurry).
CREATE OR REPLACE FUNCTION windows_promote(p_limit integer) RETURNS void
    LANGUAGE sql AS $$
    UPDATE inflight i SET priority = 0
    FROM (SELECT w.request_id FROM inflight w
          WHERE w.priority > 0 AND w.promote_at <= clock_now()
          ORDER BY w.promote_at, w.follows NULLS FIRST LIMIT p_limit FOR UPDATE SKIP LOCKED) AS due
    WHERE i.request_id = due.request_id;
$$;

-- Divides the room of the waiting class among all users who have some in it: first whoever has least. Until the next
-- run, none of them may fill more than an equal share by their own settlements.
CREATE OR REPLACE FUNCTION dispatch_fairly(p_user_ids text[], p_limit integer) RETURNS SETOF dispatched_request
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    room    integer;
    waiting text[];
    share   integer;
    chosen  uuid[];
BEGIN
    IF EXISTS (SELECT FROM inflight i WHERE i.priority > 0) THEN
        waiting := ARRAY(
            SELECT u.id FROM unnest(p_user_ids) AS u (id)
            WHERE EXISTS (SELECT FROM inflight w
                          WHERE w.user_id = u.id AND w.dispatched_at IS NULL AND w.priority > 0
                            AND w.follows IS NULL AND coalesce(w.not_before, '-infinity') <= clock_now()
                            AND w.expires_at > clock_now()));
    END IF;
    share := (SELECT greatest(c.waiting_room / cardinality(waiting), 1) FROM dispatch_capacity c
              WHERE cardinality(waiting) > 1);
    UPDATE dispatch_capacity c SET waiting_share = share WHERE c.waiting_share IS DISTINCT FROM share;
    IF cardinality(waiting) > 0 THEN
        room := waiting_room();
        chosen := ARRAY(
            SELECT c.request_id
            FROM quota_plans p
            CROSS JOIN LATERAL (
                SELECT count(*) AS dispatched FROM inflight d
                WHERE d.user_id = p.user_id AND d.dispatched_at IS NOT NULL
            ) AS taken
            CROSS JOIN LATERAL (
                SELECT w.request_id, row_number() OVER (ORDER BY w.request_id) AS n
                FROM (SELECT i.request_id FROM inflight i
                      WHERE i.user_id = p.user_id AND i.dispatched_at IS NULL AND i.priority > 0
                        AND i.status = 'queued' AND i.follows IS NULL
                        AND coalesce(i.not_before, '-infinity') <= clock_now() AND i.expires_at > clock_now()
                      ORDER BY i.priority, i.request_id
                      LIMIT greatest(least(waiting_window(p) - taken.dispatched, room), 0)) AS w
            ) AS c
            WHERE p.user_id = ANY (waiting)
            ORDER BY taken.dispatched + c.n, c.request_id
            LIMIT room);
        RETURN QUERY SELECT * FROM dispatch_waiting(waiting, p_limit, chosen, room);
    END IF;
END $$;

-- Requests whose messages the queue seems to have lost. A message may need the grace period to show up in the queue's
-- count. If the queue holds fewer messages than were sent before that, the difference is sent again, oldest first. The
-- count also includes messages that no request waits for (unreadable ones, repeats), which could hide a loss: so one in
-- a thousand of the requests that were dispatched very long ago, but at least one, is sent again in any case. Sending
-- twice is harmless, because the claim decides.
CREATE OR REPLACE FUNCTION request_redispatch(
    p_queue_depth integer, p_grace_seconds integer, p_long_seconds integer, p_limit integer
)
    RETURNS SETOF dispatched_request
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    settled_before timestamptz := clock_now() - make_interval(secs => p_grace_seconds);
    missing        bigint;
    stale          bigint;
BEGIN
    -- One at a time: two recovery tasks at once would each send the whole difference.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.redispatch'));
    SELECT count(*) - p_queue_depth,
           count(*) FILTER (WHERE i.status = 'queued'
                                  AND i.dispatched_at < clock_now() - make_interval(secs => p_long_seconds))
    INTO missing, stale
    FROM inflight i WHERE i.dispatched_at < settled_before;
    RETURN QUERY
        UPDATE inflight i SET dispatched_at = clock_now()
        FROM (
            SELECT o.request_id FROM inflight o
            WHERE o.status = 'queued' AND o.dispatched_at < settled_before
            ORDER BY o.dispatched_at
            LIMIT least(p_limit, greatest(missing, least(stale, 1 + stale / 1000)))
            FOR UPDATE SKIP LOCKED
        ) AS chosen
        WHERE i.request_id = chosen.request_id
        RETURNING i.request_id, i.user_id::text;
END $$;

-- Given the requests that dead letters name, returns those that still wait for that message, so that it is sent again.
-- The others need no message now: they are finished, at a worker, or wait for room in the dispatch window.
CREATE OR REPLACE FUNCTION request_resend(p_ids uuid[]) RETURNS SETOF dispatched_request
    LANGUAGE sql SECURITY DEFINER AS $$
    UPDATE inflight i SET dispatched_at = clock_now()
    FROM (SELECT w.request_id FROM inflight w
          WHERE w.request_id = ANY (p_ids) AND w.status = 'queued' AND w.dispatched_at IS NOT NULL
          ORDER BY w.request_id FOR UPDATE) AS waiting
    WHERE i.request_id = waiting.request_id
    RETURNING i.request_id, i.user_id::text;
$$;
