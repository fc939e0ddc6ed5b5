-- Claiming: a worker takes a batch in one call.

CALL define_type('claim', $$
    request_id uuid, attempt smallint, user_id text, model_id text, input jsonb, parameters jsonb,
    backend text, backend_model text, endpoint text, secret_arn text, timeout_seconds integer,
    overhead_tokens integer, last_error text, item_tokens integer, image_tokens integer, kind text, plan jsonb,
    mapping jsonb, max_tokens_default integer
$$);
CALL define_type('claimed_request', $$
    request_id uuid, attempt smallint, status_before text, user_id text, last_error text
$$);

CREATE OR REPLACE FUNCTION request_claim(p_ids uuid[], p_lease_seconds double precision) RETURNS SETOF claim
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    at      timestamptz := clock_now();
    ids     uuid[] := array_sort(p_ids);
    due     uuid[] := p_ids;
    probes  jsonb;
    claimed integer;
    failing boolean;
BEGIN
    PERFORM claim_wake(p_ids, at);
    failing := EXISTS (SELECT FROM model_breakers);
    IF failing THEN
        SELECT a.ids, a.probes INTO due, probes FROM claim_admit(p_ids, at) AS a;
    END IF;
    RETURN QUERY
        WITH taken AS MATERIALIZED (
            SELECT * FROM claim_take(due, at, at + make_interval(secs => p_lease_seconds))
        ), started AS (
            -- The range lets the cached plan open only the partitions of these months; the list does not.
            UPDATE requests r SET
                status = 'processing', attempts = t.attempt, started_at = greatest(at, r.created_at), updated_at = at
            FROM taken t
            WHERE r.request_id = t.request_id AND r.request_id = ANY (ids)
              AND r.request_id BETWEEN ids[1] AND ids[cardinality(ids)]
            RETURNING r.request_id, r.attempts, r.user_id, r.model_id, t.last_error
        ), audited AS (
            INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
            SELECT 'worker', 'request.processing', t.user_id, t.request_id,
                   jsonb_build_object('status', t.status_before),
                   jsonb_build_object('status', 'processing', 'attempt', t.attempt)
            FROM taken t
        )
        SELECT r.request_id, r.attempts, r.user_id::text, r.model_id::text, p.input, p.parameters,
               m.backend::text, m.backend_model::text, m.endpoint, m.secret_arn, m.timeout_seconds,
               m.overhead_tokens, r.last_error, m.item_tokens, m.image_tokens, m.kind::text,
               CASE WHEN failing OR p.handling IS NOT NULL
                    THEN claim_plan(r.request_id, r.model_id, p.handling, r.last_error, probes) END,
               m.mapping, m.max_tokens_default
        FROM started r
        CROSS JOIN LATERAL question_find(r.request_id) AS p
        JOIN models m ON m.model_id = r.model_id
        WHERE p.input IS NOT NULL
        ORDER BY r.request_id;
    GET DIAGNOSTICS claimed = ROW_COUNT;
    IF claimed < cardinality(p_ids) THEN
        PERFORM claim_put_back(p_ids);
    END IF;
END $$;
COMMENT ON FUNCTION request_claim(uuid[], double precision) IS
    'Claims those of the requests that are due: queued, or left by a worker whose lease ran out. The messages of all '
    'requests that it does not return may be acknowledged: these requests are finished, taken, too early, unknown, or '
    'were put back.';

-- The steps -----------------------------------------------------------------------------------------------------------

-- Some messages name requests that are not marked as dispatched: wake-up messages of retries, and repeats. These
-- requests are dispatched now, as far as their users' dispatch windows have room.
CREATE OR REPLACE FUNCTION claim_wake(p_ids uuid[], p_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    woken text[] := ARRAY(
        SELECT DISTINCT i.user_id FROM inflight i
        WHERE i.request_id = ANY (p_ids) AND i.dispatched_at IS NULL AND i.follows IS NULL
          AND coalesce(i.not_before, p_at) <= p_at);
BEGIN
    IF woken <> '{}' THEN
        PERFORM users_lock(woken);
        PERFORM FROM dispatch_waiting(woken, cardinality(p_ids), p_ids);
    END IF;
END $$;

-- A row that is locked is skipped, because another worker or the recovery task is deciding about it. Rows are locked in
-- the order of their ids, as everywhere, so that two batches cannot wait for each other.
CREATE OR REPLACE FUNCTION claim_take(p_ids uuid[], p_at timestamptz, p_lease_until timestamptz)
    RETURNS SETOF claimed_request
    LANGUAGE sql AS $$
    WITH due AS (
        SELECT i.request_id, i.lost_attempts >= 2 AS is_suspect FROM inflight i
        WHERE i.request_id = ANY (p_ids) AND i.expires_at > p_at AND i.dispatched_at IS NOT NULL
          AND i.cancel_requested_at IS NULL
          AND (i.status = 'queued' AND coalesce(i.not_before, p_at) <= p_at
               OR i.status = 'processing' AND i.lease_until < p_at AND i.failed_attempts + 1 < i.max_attempts)
        ORDER BY i.request_id
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE inflight i SET
            status = 'processing', attempt = i.attempt + 1, lease_until = p_lease_until, not_before = NULL,
            -- If it is still processing, its worker was lost, and the recovery task has not seen that yet.
            failed_attempts = i.failed_attempts + (i.status = 'processing')::integer,
            lost_attempts = i.lost_attempts + (i.status = 'processing')::integer,
            last_error = CASE i.status WHEN 'processing' THEN 'worker_lost' ELSE i.last_error END
        FROM due
        WHERE i.request_id = due.request_id
          -- A request whose worker was lost twice may be what makes workers crash. It is tried alone: otherwise it
          -- would cost every request in its batch an attempt.
          AND due.request_id = coalesce((SELECT d.request_id FROM due d WHERE d.is_suspect ORDER BY 1 LIMIT 1),
                                        due.request_id)
        RETURNING i.request_id, i.attempt, old.status, i.user_id, i.last_error
    )
    SELECT t.request_id, t.attempt, t.status::text, t.user_id::text, t.last_error::text FROM taken t;
$$;

-- Requests of the batch that are still queued have used up their messages, which came too early or together with a
-- suspect. The recovery task, or the next settlement for the same user, sends new ones.
CREATE OR REPLACE FUNCTION claim_put_back(p_ids uuid[]) RETURNS void
    LANGUAGE sql AS $$
    UPDATE inflight i SET dispatched_at = NULL
    FROM (SELECT s.request_id FROM inflight s
          WHERE s.request_id = ANY (p_ids) AND s.status = 'queued' AND s.dispatched_at IS NOT NULL
          ORDER BY s.request_id FOR UPDATE SKIP LOCKED) AS spent
    WHERE i.request_id = spent.request_id;
$$;
