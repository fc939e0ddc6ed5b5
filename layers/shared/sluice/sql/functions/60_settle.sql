-- The end of requests: one call a flush. Everything that finishes, finishes here.

-- Whether a request ended just so: what tells a flush that is sent twice from an answer that comes too late.
CREATE OR REPLACE FUNCTION is_repeat_of(r requests, attempt smallint, outcome text, prompt_tokens integer, completion_tokens integer)
    RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN coalesce(r.attempts = attempt AND r.completed_at IS NOT NULL
                    AND (r.status = outcome OR (r.status, outcome) = ('failed', 'retry') OR r.status = 'cancelled')
                    AND coalesce(r.total_tokens, 0) = coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0), false);

-- outcomes: an array of objects
--   request_id, attempt       which claim this answers; any other attempt is superseded and only audited
--   outcome                   completed | failed | expired | cancelled | retry | handed_back (it was not begun)
--   content, fingerprint      completed: the answer; SHA-256 in hexadecimal of what was asked
--   prompt_tokens, completion_tokens   as the model reported them, where it did
--   error_code, error_message failed, retry: why, in words a client may read
--   retry_after               retry: seconds to wait; becomes failed when attempts or lifetime are spent
-- What was cancelled meanwhile is cancelled, whatever came of it. Returns what became of each:
--   settled | superseded | requeued (where delay_seconds is given: a message after so long is to wake it)
-- The caller holds the gates of their users.
CREATE OR REPLACE FUNCTION outcomes_settle(outcomes jsonb, by_actor text)
    RETURNS TABLE (kind text, request_id uuid, user_id text, status text, delay_seconds integer)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    at       timestamptz := clock_now();
    ids      uuid[];
    current  bigint[];
    ended    settlement[];
    requeued settlement[];
BEGIN
    SELECT array_agg((o->>'request_id')::uuid) INTO ids FROM jsonb_array_elements(outcomes) AS o;

    -- Which of them answer a claim as it is now: one for each request, should a flush name it twice. An answer that comes
    -- late is as good as any while nobody has begun anew; but nothing goes back to the queue twice.
    current := ARRAY(
        SELECT DISTINCT ON (i.request_id) o.n
        FROM ROWS FROM (jsonb_to_recordset(outcomes) AS (request_id uuid, attempt smallint, outcome text))
            WITH ORDINALITY AS o (request_id, attempt, outcome, n)
        JOIN inflight i ON i.request_id = o.request_id AND i.attempt = o.attempt
        WHERE i.request_id = ANY (ids) AND (i.status = 'processing' OR o.outcome NOT IN ('retry', 'handed_back'))
        ORDER BY i.request_id, o.n);

    SELECT array_agg(s.settlement) FILTER (WHERE (s.settlement).outcome NOT IN ('retry', 'handed_back')),
           array_agg(s.settlement) FILTER (WHERE (s.settlement).outcome IN ('retry', 'handed_back'))
    INTO ended, requeued
    FROM (
        SELECT ROW(
            i.request_id, i.attempt, i.user_id, e.outcome,
            CASE WHEN e.outcome = 'completed' THEN uuidv7() END,
            o.content, decode(o.fingerprint, 'hex'),
            -- Both counts or neither, so that total and parts are booked alike.
            CASE WHEN o.completion_tokens IS NULL THEN o.prompt_tokens ELSE coalesce(o.prompt_tokens, 0) END,
            CASE WHEN o.prompt_tokens IS NULL THEN o.completion_tokens ELSE coalesce(o.completion_tokens, 0) END,
            CASE WHEN e.outcome <> 'cancelled' THEN o.error_code END,
            CASE WHEN e.outcome <> 'cancelled' THEN o.error_message || CASE
                WHEN o.outcome <> 'retry' OR e.outcome <> 'failed' THEN ''
                WHEN i.failures + 1 >= i.max_attempts THEN format(' It was tried %s times.', i.failures + 1)
                ELSE ' Its lifetime would have ended before the next attempt.' END END,
            o.retry_after, i.status
        )::settlement AS settlement
        FROM ROWS FROM (jsonb_to_recordset(outcomes) AS (
            request_id uuid, attempt smallint, outcome text, content text, fingerprint text, prompt_tokens integer,
            completion_tokens integer, error_code text, error_message text, retry_after double precision))
            WITH ORDINALITY AS o (request_id, attempt, outcome, content, fingerprint, prompt_tokens, completion_tokens,
                                  error_code, error_message, retry_after, n)
        JOIN inflight i ON i.request_id = o.request_id AND i.attempt = o.attempt
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN i.cancelled_at IS NOT NULL THEN 'cancelled'
                WHEN o.outcome = 'retry' AND (i.failures + 1 >= i.max_attempts
                                              OR at + make_interval(secs => o.retry_after) >= i.expires_at) THEN 'failed'
                ELSE o.outcome END AS outcome
        ) AS e
        WHERE i.request_id = ANY (ids) AND o.n = ANY (current)
        ORDER BY i.request_id
        FOR UPDATE OF i
    ) AS s;

    -- Ended: the answer is kept, and the row that kept the request alive goes.
    INSERT INTO results (result_id, request_id, content, token_count, fingerprint)
    SELECT s.result_id, s.request_id, s.content, s.completion_tokens, s.fingerprint
    FROM unnest(ended) AS s WHERE s.outcome = 'completed';

    DELETE FROM inflight i USING unnest(ended) AS s WHERE i.request_id = s.request_id;

    -- The request, the books and the audit. Executed as text: planned for these ids each time, so that only their
    -- months' partitions are opened and locked. One statement may do all three: each row is changed once, and what it
    -- reads of the books cannot change under it, behind the gate.
    EXECUTE $sql$
        WITH finished AS (
            UPDATE requests r SET
                status = s.outcome, updated_at = $3,
                completed_at = greatest($3, r.started_at, r.created_at),
                -- A claim that was lost may be found weeks later: 2^31 ms are 25 days.
                processing_time_ms = CASE WHEN r.started_at IS NOT NULL THEN
                    least(extract(epoch FROM greatest($3, r.started_at) - r.started_at) * 1000, 2147483647)::integer END,
                prompt_tokens = s.prompt_tokens, completion_tokens = s.completion_tokens,
                total_tokens = s.prompt_tokens + s.completion_tokens,
                result_id = s.result_id, error_code = s.error_code, error_message = s.error_message
            FROM unnest($1) AS s
            WHERE r.request_id = s.request_id AND r.request_id = ANY ($2)
            RETURNING r.request_id, r.user_id, r.created_at, r.reserved_tokens, r.processing_time_ms,
                      coalesce(r.total_tokens, 0) AS used_tokens
        ), booked AS (
            -- A quota row changes only where its period still contains the request; usage gets it in any case.
            UPDATE quotas q SET tokens_reserved = q.tokens_reserved - d.reserved, tokens_used = q.tokens_used + d.used
            FROM (
                SELECT p.user_id, p.quota_period, sum(f.reserved_tokens) AS reserved, sum(f.used_tokens) AS used
                FROM finished f
                JOIN quotas p ON p.user_id = f.user_id AND f.created_at >= p.period_start AND f.created_at < p.reset_at
                GROUP BY p.user_id, p.quota_period
            ) AS d
            WHERE q.user_id = d.user_id AND q.quota_period = d.quota_period
        )
        INSERT INTO audit_log (actor, action, user_id, request_id, invocation, before, after)
        SELECT $4, 'request.' || s.outcome, s.user_id, s.request_id, nullif(current_setting('sluice.invocation', true), '')::uuid,
               jsonb_build_object('status', s.status_before, 'attempt', s.attempt),
               jsonb_strip_nulls(jsonb_build_object(
                   'status', s.outcome, 'prompt_tokens', s.prompt_tokens, 'completion_tokens', s.completion_tokens,
                   'error_code', s.error_code, 'processing_time_ms', f.processing_time_ms,
                   'overrun_tokens', nullif(greatest(f.used_tokens - f.reserved_tokens, 0), 0)))
        FROM unnest($1) AS s JOIN finished f ON f.request_id = s.request_id
    $sql$ USING ended, ids, at, by_actor;

    IF requeued IS NOT NULL THEN
        -- Back in the queue: what is to be tried again when its time has come, what was not begun at once.
        UPDATE inflight i SET
            status = 'queued', lease_until = NULL, dispatched_at = NULL,
            not_before = at + make_interval(secs => s.retry_after),
            failures = i.failures + (s.outcome = 'retry')::integer,
            last_error = CASE s.outcome WHEN 'retry' THEN s.error_code ELSE i.last_error END
        FROM unnest(requeued) AS s WHERE i.request_id = s.request_id;

        EXECUTE $sql$
            UPDATE requests r SET status = 'queued', updated_at = $3
            FROM unnest($1) AS s WHERE r.request_id = s.request_id AND r.request_id = ANY ($2)
        $sql$ USING requeued, ids, at;

        INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
        SELECT by_actor, 'request.requeued', s.user_id, s.request_id,
               jsonb_build_object('status', s.status_before, 'attempt', s.attempt),
               jsonb_build_object('status', 'queued', 'error_code', coalesce(s.error_code, s.outcome), 'retry_after', s.retry_after)
        FROM unnest(requeued) AS s;
    END IF;

    IF cardinality(current) < jsonb_array_length(outcomes) THEN
        -- Answers to a claim that is no longer the current one. The same flush sent twice finds its own work done.
        RETURN QUERY
            WITH late AS MATERIALIZED (
                SELECT o.*, r.user_id, r.status, CASE
                           WHEN is_repeat_of(r, o.attempt, o.outcome, o.prompt_tokens, o.completion_tokens) THEN 'settled'
                           WHEN r.status = 'queued' AND r.attempts = o.attempt AND o.outcome IN ('retry', 'handed_back')
                               THEN 'requeued'
                           ELSE 'superseded' END AS kind
                FROM ROWS FROM (jsonb_to_recordset(outcomes) AS (
                    request_id uuid, attempt smallint, outcome text, prompt_tokens integer, completion_tokens integer))
                    WITH ORDINALITY AS o (request_id, attempt, outcome, prompt_tokens, completion_tokens, n)
                LEFT JOIN requests r ON r.request_id = o.request_id AND r.request_id = ANY (ids)
                WHERE o.n <> ALL (current)
            ), wasted AS (
                INSERT INTO audit_log (actor, action, user_id, request_id, after)
                SELECT by_actor, 'request.superseded', l.user_id, l.request_id,
                       jsonb_build_object('attempt', l.attempt, 'wasted_tokens',
                                          coalesce(l.prompt_tokens, 0) + coalesce(l.completion_tokens, 0))
                FROM late l WHERE l.user_id IS NOT NULL AND l.kind = 'superseded'
            )
            SELECT l.kind, l.request_id, l.user_id::text, l.status::text, NULL::integer FROM late l;
    END IF;

    RETURN QUERY
        SELECT 'settled', s.request_id, s.user_id, s.outcome, NULL::integer FROM unnest(ended) AS s
        UNION ALL
        -- SQS delays a message 15 minutes at most; to what pauses longer the sweep attends.
        SELECT 'requeued', s.request_id, s.user_id, 'queued',
               CASE WHEN s.retry_after > 0 AND s.retry_after <= 900 THEN ceil(s.retry_after)::integer END
        FROM unnest(requeued) AS s;
END $$;

-- Marks the next requests of these users as dispatched, as far as their windows have room, and returns them to be sent;
-- only some of them where ids are given. The caller holds their gates.
CREATE OR REPLACE FUNCTION window_fill(of_users text[], at_most integer, among uuid[] DEFAULT NULL)
    RETURNS TABLE (request_id uuid, user_id text)
    LANGUAGE sql
BEGIN ATOMIC
    UPDATE inflight i SET dispatched_at = clock_now()
    FROM (
        SELECT next.request_id
        FROM unnest(of_users) AS u (id)
        JOIN quota_plans p ON p.user_id = u.id
        CROSS JOIN LATERAL (
            SELECT count(*) AS dispatched FROM inflight d WHERE d.user_id = u.id AND d.dispatched_at IS NOT NULL
        ) AS taken
        CROSS JOIN LATERAL (
            SELECT w.request_id FROM inflight w
            WHERE w.user_id = u.id AND w.dispatched_at IS NULL AND w.status = 'queued'
              AND coalesce(w.not_before, '-infinity') <= clock_now() AND w.expires_at > clock_now()
              AND (among IS NULL OR w.request_id = ANY (among))
            ORDER BY w.priority DESC, w.request_id
            LIMIT greatest(p.dispatch_window - taken.dispatched, 0)
            FOR UPDATE SKIP LOCKED
        ) AS next
        LIMIT at_most
    ) AS chosen
    WHERE i.request_id = chosen.request_id
    RETURNING i.request_id, i.user_id;
END;

-- What a worker's flush does: see outcomes_settle. Returns as well:
--   dispatch                  a next request of a user in whose window a place became free: its message is to be sent
CREATE OR REPLACE FUNCTION request_settle(outcomes jsonb, by_actor text)
    RETURNS TABLE (kind text, request_id uuid, user_id text, status text, delay_seconds integer)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    ids   uuid[] := ARRAY(SELECT (o->>'request_id')::uuid FROM jsonb_array_elements(outcomes) AS o);
    users text[] := ARRAY(SELECT DISTINCT i.user_id FROM inflight i WHERE i.request_id = ANY (ids));
BEGIN
    -- The gate first, users sorted: the order in which submit and every other settlement take these locks.
    PERFORM FROM quota_plans p WHERE p.user_id = ANY (users) ORDER BY p.user_id FOR NO KEY UPDATE;
    RETURN QUERY SELECT * FROM outcomes_settle(outcomes, by_actor);
    RETURN QUERY SELECT 'dispatch', d.request_id, d.user_id, 'queued', 0 FROM window_fill(users, 1000) AS d;
END $$;

-- A send that failed: the sweep will send it.
CREATE OR REPLACE FUNCTION request_undispatch(ids uuid[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE inflight SET dispatched_at = NULL WHERE request_id = ANY (ids) AND status = 'queued';
$$;
