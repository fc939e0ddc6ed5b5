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
    woken    text[];
    claimed  uuid[];
    fences   smallint[];
    befores  text[];
    users    text[];
BEGIN
    -- Messages of requests that are not dispatched: the wake-up calls of retries, repeats. They take places in their
    -- users' windows as any other, behind the gate, as far as there are any.
    woken := ARRAY(
        SELECT DISTINCT i.user_id FROM inflight i
        WHERE i.request_id = ANY (ids) AND i.dispatched_at IS NULL AND coalesce(i.not_before, at) <= at);
    IF woken <> '{}' THEN
        PERFORM FROM quota_plans p WHERE p.user_id = ANY (woken) ORDER BY p.user_id FOR NO KEY UPDATE;
        PERFORM FROM window_fill(woken, cardinality(ids), ids);
    END IF;

    -- Who finds a row locked leaves it: another worker or the sweep is deciding about it. Locked in id order, as
    -- everywhere, so that two batches cannot wait for each other.
    WITH due AS (
        SELECT i.request_id, i.lost >= 2 AS is_suspect FROM inflight i
        WHERE i.request_id = ANY (ids) AND i.expires_at > at AND i.dispatched_at IS NOT NULL AND i.cancelled_at IS NULL
          AND (i.status = 'queued' AND coalesce(i.not_before, at) <= at
               OR i.status = 'processing' AND i.lease_until < at AND i.failures + 1 < i.max_attempts)
        ORDER BY i.request_id
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE inflight i SET
            status = 'processing', attempt = i.attempt + 1, lease_until = at + make_interval(secs => lease_seconds),
            not_before = NULL,
            -- Still processing: its worker was lost, and the sweep has not been by.
            failures = i.failures + (i.status = 'processing')::integer,
            lost = i.lost + (i.status = 'processing')::integer,
            last_error = CASE i.status WHEN 'processing' THEN 'worker_lost' ELSE i.last_error END
        FROM due
        WHERE i.request_id = due.request_id
          -- What was lost with its worker twice may be what kills workers: it is tried alone, or it would take the
          -- attempts of all that share its batches.
          AND due.request_id = coalesce((SELECT d.request_id FROM due d WHERE d.is_suspect ORDER BY 1 LIMIT 1), due.request_id)
        RETURNING i.request_id, i.attempt, old.status AS before, i.user_id
    )
    SELECT array_agg(t.request_id), array_agg(t.attempt), array_agg(t.before), array_agg(t.user_id)
    INTO claimed, fences, befores, users FROM taken t;

    -- Whatever else is queued has spent its message, which came too early or together with a suspect. The sweep, or the
    -- next settlement for its user, sends another.
    UPDATE inflight i SET dispatched_at = NULL
    FROM (SELECT s.request_id FROM inflight s
          WHERE s.request_id = ANY (ids) AND s.status = 'queued' AND s.dispatched_at IS NOT NULL
          ORDER BY s.request_id FOR UPDATE SKIP LOCKED) AS spent
    WHERE i.request_id = spent.request_id;

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
    'is finished, taken, early, gone or put back, and its message may be acknowledged.';
