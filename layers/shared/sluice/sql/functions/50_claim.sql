-- A batch taken by a worker: one call.

CREATE OR REPLACE FUNCTION request_claim(ids uuid[], lease_seconds double precision)
    RETURNS TABLE (
        request_id uuid, attempt smallint, user_id text, model_id text, prompt text, parameters jsonb,
        backend text, backend_model text, endpoint text, secret_arn text, timeout_seconds integer
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    -- Planned for these ids, so that only their months' partitions are opened and locked.
    SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    at       timestamptz := clock_now();
    claimed  uuid[];
    fences   smallint[];
    befores  text[];
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
        RETURNING i.request_id, i.attempt, old.status AS before
    )
    SELECT array_agg(t.request_id), array_agg(t.attempt), array_agg(t.before) INTO claimed, fences, befores FROM taken t;

    -- A message that came before its time is spent: the sweep sends another when the time has come.
    UPDATE inflight i SET dispatched_at = NULL
    WHERE i.request_id = ANY (ids) AND i.status = 'queued' AND i.not_before > at AND i.dispatched_at IS NOT NULL;

    IF claimed IS NULL THEN
        RETURN;
    END IF;

    UPDATE requests r SET
        status = 'processing', attempts = c.attempt, started_at = greatest(at, r.created_at), updated_at = at
    FROM unnest(claimed, fences) AS c (id, attempt)
    WHERE r.request_id = c.id AND r.request_id = ANY (claimed);

    INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
    SELECT 'worker', 'request.processing', r.user_id, r.request_id,
           jsonb_build_object('status', c.before), jsonb_build_object('status', 'processing', 'attempt', r.attempts)
    FROM unnest(claimed, befores) AS c (id, before)
    JOIN requests r ON r.request_id = c.id AND r.request_id = ANY (claimed);

    RETURN QUERY
        SELECT r.request_id, r.attempts, r.user_id::text, r.model_id::text, p.prompt, p.parameters,
               m.backend::text, m.backend_model::text, m.endpoint, m.secret_arn, m.timeout_seconds
        FROM requests r
        JOIN prompts p ON p.request_id = r.request_id AND p.request_id = ANY (claimed)
        JOIN models m ON m.model_id = r.model_id
        WHERE r.request_id = ANY (claimed)
        ORDER BY r.request_id;
END $$;
COMMENT ON FUNCTION request_claim(uuid[], double precision) IS
    'Takes those of the requests that are due: queued, or left by a worker whose lease ran out. What it does not return '
    'is finished, taken, early or gone, and its message may be acknowledged.';
