-- Dispatching: which of a user's waiting requests get a message now, as far as the dispatch window has room.

CALL define_type('dispatched_request', $$request_id uuid, user_id text$$);

-- Marks the next requests of these users as dispatched, and returns them so that their messages are sent. If p_among is
-- given, only these ids are considered. The caller holds the user locks.
CREATE OR REPLACE FUNCTION dispatch_waiting(p_user_ids text[], p_limit integer, p_among uuid[] DEFAULT NULL)
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
            SELECT w.request_id FROM inflight w
            WHERE w.user_id = u.id AND w.dispatched_at IS NULL AND w.status = 'queued' AND w.follows IS NULL
              AND coalesce(w.not_before, '-infinity') <= clock_now() AND w.expires_at > clock_now()
              AND (p_among IS NULL OR w.request_id = ANY (p_among))
            ORDER BY w.request_id
            LIMIT greatest(p.dispatch_window - taken.dispatched, 0)
            FOR UPDATE SKIP LOCKED
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
