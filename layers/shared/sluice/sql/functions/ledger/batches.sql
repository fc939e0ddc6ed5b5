-- Invariants of batches.

-- A batch counts its lines as they are: how many there are, how many were submitted or refused, and how their requests
-- ended. Each of its requests that is unfinished is a line's, and each line's request is of its user. Its files are its
-- own. Scope: batches that have not ended; with p_full also those that have, whose lines are kept for a while.
CREATE OR REPLACE FUNCTION batch_adds_up(p_full boolean) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
        WITH counted AS (
            SELECT b.batch_id, count(l.line) AS total,
                   count(l.line) FILTER (WHERE l.request_id IS NOT NULL OR l.error IS NOT NULL) AS fed,
                   count(l.line) FILTER (WHERE r.status = 'completed') AS completed,
                   count(l.line) FILTER (WHERE r.status IN ('failed', 'cancelled', 'expired') OR l.error IS NOT NULL)
                       AS failed,
                   count(l.line) FILTER (WHERE l.request_id IS NOT NULL AND r.user_id IS DISTINCT FROM b.user_id)
                       AS strange
            FROM batches b
            LEFT JOIN batch_lines l ON l.batch_id = b.batch_id
            LEFT JOIN requests_all r ON r.request_id = l.request_id
            WHERE b.next_at IS NOT NULL OR p_full
            GROUP BY b.batch_id
        )
        SELECT b.user_id::text, NULL::uuid, NULL::text,
               format('batch %s of %s lines, %s submitted, %s completed, %s failed, 0 of others', b.batch_id, c.total,
                      c.fed, c.completed, c.failed),
               format('%s lines, %s submitted, %s completed, %s failed, %s of others', b.total, b.fed, b.completed,
                      b.failed, c.strange)
        FROM batches b JOIN counted c ON c.batch_id = b.batch_id
        WHERE CASE
            WHEN c.strange > 0 THEN true
            -- Its lines are gone.
            WHEN b.ended_at IS NOT NULL AND c.total = 0 THEN b.completed + b.failed <> b.total
            -- What was never submitted counts as failed from then on, and what was erased since.
            WHEN b.finalizing_at IS NOT NULL
                THEN (b.total, b.fed) <> (c.total, c.total) OR b.completed > c.completed
                     OR b.completed + b.failed <> b.total
            ELSE (b.total, b.fed, b.completed, b.failed) <> (c.total, c.fed, c.completed, c.failed) END
        LIMIT 100;
    RETURN QUERY
        SELECT i.user_id::text, i.request_id, NULL::text, 'a line of batch ' || i.batch_id,
               coalesce('a line of batch ' || l.batch_id, 'no line')
        FROM inflight i
        LEFT JOIN batch_lines l ON l.request_id = i.request_id
        LEFT JOIN batches b ON b.batch_id = l.batch_id
        WHERE i.batch_id IS NOT NULL
          AND (l.batch_id, b.user_id) IS DISTINCT FROM (i.batch_id, i.user_id)
        LIMIT 100;
    RETURN QUERY
        SELECT b.user_id::text, NULL::uuid, NULL::text,
               format('file %s of batch %s of %s', n.file_id, b.batch_id, b.user_id),
               coalesce(format('file of batch %s of %s', f.batch_id, f.user_id), 'none')
        FROM batches b
        CROSS JOIN LATERAL (VALUES (b.output_file_id), (b.error_file_id)) AS n (file_id)
        LEFT JOIN files f ON f.file_id = n.file_id
        WHERE p_full AND n.file_id IS NOT NULL AND (f.batch_id, f.user_id) IS DISTINCT FROM (b.batch_id, b.user_id)
        LIMIT 100;
END $$;
