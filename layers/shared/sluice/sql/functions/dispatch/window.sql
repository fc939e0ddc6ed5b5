-- Dispatching: which of a user's waiting requests get a message now, as far as the dispatch window has room.

CALL define_type('dispatched_request', $$request_id uuid, user_id text$$);

-- How much of a user's dispatch window requests of the waiting class may fill: others find room at once.
CREATE OR REPLACE FUNCTION waiting_window(p quota_plans) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN p.dispatch_window - p.dispatch_window / 4;

-- How many requests of the waiting class may be dispatched now: these fill what all others leave. Two transactions at
-- once may both find the same room: nothing breaks if there are some more. It reads an index up to that number of rows.
CREATE OR REPLACE FUNCTION waiting_room() RETURNS integer
    LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    room integer := (SELECT c.waiting_room FROM dispatch_capacity c);
BEGIN
    RETURN room - (
        SELECT count(*) FROM (SELECT FROM inflight i WHERE i.dispatched_at IS NOT NULL LIMIT room) AS dispatched);
END $$;

-- How many of them a user may get now who has so many dispatched.
CREATE OR REPLACE FUNCTION waiting_slots(p quota_plans, p_dispatched bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN greatest(0, least(
        least(waiting_window(p), (SELECT c.waiting_share FROM dispatch_capacity c)) - p_dispatched, waiting_room()));
END $$;

-- Marks the next requests of these users as dispatched, and returns them so that their messages are sent. First those
-- of priority 0, then the waiting class, as long as it has room. If p_among is given, only these ids are considered.
-- p_room: how many of the waiting class each user may get; NULL: what waiting_slots() says. The caller holds the user
-- locks.
CREATE OR REPLACE FUNCTION dispatch_waiting(
    p_user_ids text[], p_limit integer, p_among uuid[] DEFAULT NULL, p_room integer DEFAULT NULL
)
    RETURNS SETOF dispatched_request
    LANGUAGE sql
BEGIN ATOMIC
    UPDATE inflight i SET dispatched_at = clock_now()
    FROM (
        SELECT next.request_id
        FROM unnest(p_user_ids) AS u (id)
        JOIN quota_plans p ON p.user_id = u.id
        CROSS JOIN LATERAL (
            SELECT count(*) AS dispatched FROM inflight d WHERE d.user_id = u.id AND d.dispatched_at IS NOT NULL
        ) AS taken
        CROSS JOIN LATERAL (
            SELECT array_agg(w.request_id) AS ids, count(*) AS number
            FROM (
                SELECT w.request_id FROM inflight w
                WHERE w.user_id = u.id AND w.dispatched_at IS NULL AND w.priority = 0 AND w.status = 'queued'
                  AND w.follows IS NULL
                  AND coalesce(w.not_before, '-infinity') <= clock_now() AND w.expires_at > clock_now()
                  AND (p_among IS NULL OR w.request_id = ANY (p_among))
                ORDER BY w.request_id
                LIMIT least(greatest(p.dispatch_window - taken.dispatched, 0), p_limit)
                FOR UPDATE SKIP LOCKED
            ) AS w
        ) AS urgent
        CROSS JOIN LATERAL (
            SELECT unnest(urgent.ids) AS request_id
            UNION ALL
            SELECT w.request_id
            FROM (
                SELECT w.request_id FROM inflight w
                WHERE w.user_id = u.id AND w.dispatched_at IS NULL AND w.priority > 0 AND w.status = 'queued'
                  AND w.follows IS NULL
                  AND coalesce(w.not_before, '-infinity') <= clock_now() AND w.expires_at > clock_now()
                  AND (p_among IS NULL OR w.request_id = ANY (p_among))
                ORDER BY w.priority, w.request_id
                -- Users without completion windows have none of these, and pay nothing for them.
                LIMIT CASE WHEN p.has_windows
                           THEN coalesce(p_room, waiting_slots(p, taken.dispatched + urgent.number))
                           ELSE 0 END
                FOR UPDATE SKIP LOCKED
            ) AS w
        ) AS next
        LIMIT p_limit
    ) AS chosen
    WHERE i.request_id = chosen.request_id
    RETURNING i.request_id, i.user_id::text;
END;

-- Clears the mark after the send of a message failed: the recovery task will send it.
CREATE OR REPLACE FUNCTION request_undispatch(p_ids uuid[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER AS $$
    UPDATE inflight SET dispatched_at = NULL WHERE request_id = ANY (p_ids) AND status = 'queued';
$$;
