-- A batch taken by a worker: one call.

CREATE OR REPLACE FUNCTION request_claim(ids uuid[], lease_seconds double precision)
    RETURNS TABLE (
        request_id uuid, attempt smallint, user_id text, model_id text, prompt text, parameters jsonb,
        backend text, backend_model text, endpoint text, secret_arn text, timeout_seconds integer
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at       timestamptz := clock_now();
    claimed  uuid[];
    fences   smallint[];
    befores  text[];
    users    text[];
BEGIN
    -- Who finds a row locked leaves it: another worker or the sweep is deciding about it. Locked in id order, as
    -- everywhere, so that two batches cannot wait for each other.
    WITH due AS (
        SELECT i.request_id FROM inflight i
        WHERE i.request_id = ANY (ids) AND i.expires_at > at AND i.attempt < i.max_attempts
          AND (i.status = 'queued' AND coalesce(i.not_before, at) <= at OR i.status = 'processing' AND i.lease_until < at)
        ORDER BY i.request_id
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE inflight i SET
            status = 'processing', attempt = i.attempt + 1, lease_until = at + make_interval(secs => lease_seconds),
            not_before = NULL, dispatched_at = coalesce(i.dispatched_at, at)
        FROM due WHERE i.request_id = due.request_id
        RETURNING i.request_id, i.attempt, old.status AS before, i.user_id
    )
    SELECT array_agg(t.request_id), array_agg(t.attempt), array_agg(t.before), array_agg(t.user_id)
    INTO claimed, fences, befores, users FROM taken t;

    -- A message that came before its time is spent: the sweep sends another when the time has come.
    UPDATE inflight i SET dispatched_at = NULL
    WHERE i.request_id = ANY (ids) AND i.status = 'queued' AND i.not_before > at AND i.dispatched_at IS NOT NULL;

    IF claimed IS NULL THEN
        RETURN;
    END IF;

    INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
    SELECT 'worker', 'request.processing', c.user_id, c.id,
           jsonb_build_object('status', c.before), jsonb_build_object('status', 'processing', 'attempt', c.fence)
    FROM unnest(claimed, fences, befores, users) AS c (id, fence, before, user_id);

    -- Executed as text: planned for these ids each time, so that only their months' partitions are opened and locked.
    EXECUTE $sql$
        UPDATE requests r SET
            status = 'processing', attempts = c.fence, started_at = greatest($3, r.created_at), updated_at = $3
        FROM unnest($1, $2) AS c (id, fence)
        WHERE r.request_id = c.id AND r.request_id = ANY ($1)
    $sql$ USING claimed, fences, at;

    RETURN QUERY EXECUTE $sql$
        SELECT r.request_id, r.attempts, r.user_id::text, r.model_id::text, p.prompt, p.parameters,
               m.backend::text, m.backend_model::text, m.endpoint, m.secret_arn, m.timeout_seconds
        FROM requests r
        JOIN prompts p ON p.request_id = r.request_id AND p.request_id = ANY ($1)
        JOIN models m ON m.model_id = r.model_id
        WHERE r.request_id = ANY ($1)
        ORDER BY r.request_id
    $sql$ USING claimed;
END $$;
COMMENT ON FUNCTION request_claim(uuid[], double precision) IS
    'Takes those of the requests that are due: queued, or left by a worker whose lease ran out. What it does not return '
    'is finished, taken, early or gone, and its message may be acknowledged.';
