-- The end of requests: one call a flush. Everything that finishes, finishes here.

-- Whether a request ended just so: what tells a flush that is sent twice from an answer that comes too late.
CREATE OR REPLACE FUNCTION is_settlement_of(r requests, attempt smallint, outcome text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN coalesce(r.attempts = attempt AND r.completed_at IS NOT NULL
                    AND (r.status = outcome OR (r.status, outcome) = ('failed', 'retry')), false);

-- outcomes: an array of objects
--   request_id, attempt       which claim this answers; any other attempt is superseded and only audited
--   outcome                   completed | failed | expired | cancelled | retry
--   content, fingerprint      completed: the answer; SHA-256 in hexadecimal of what was asked
--   prompt_tokens, completion_tokens   as the model reported them, where it did
--   error_code, error_message failed, retry: why, in words a client may read
--   retry_after               retry: seconds to wait; becomes failed when attempts or lifetime are spent
-- Returns what became of each and what to send now:
--   settled | requeued (send its message after delay_seconds) | superseded | dispatch (a next one of the user's window)
CREATE OR REPLACE FUNCTION request_settle(outcomes jsonb, by_actor text)
    RETURNS TABLE (kind text, request_id uuid, user_id text, status text, delay_seconds integer)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at       timestamptz := clock_now();
    ids      uuid[];
    ended    settlement[];
    requeued settlement[];
BEGIN
    SELECT array_agg((o->>'request_id')::uuid) INTO ids FROM jsonb_array_elements(outcomes) AS o;

    -- The gate first, users sorted: the order in which submit and every other settlement take these locks.
    PERFORM FROM quota_plans p
    WHERE p.user_id IN (SELECT i.user_id FROM inflight i WHERE i.request_id = ANY (ids))
    ORDER BY p.user_id FOR NO KEY UPDATE;

    SELECT array_agg(s.settlement) FILTER (WHERE (s.settlement).outcome <> 'retry'),
           array_agg(s.settlement) FILTER (WHERE (s.settlement).outcome = 'retry')
    INTO ended, requeued
    FROM (
        SELECT ROW(
            i.request_id, i.attempt, i.user_id,
            CASE WHEN o.outcome = 'retry' AND (i.attempt >= i.max_attempts
                                               OR at + make_interval(secs => o.retry_after) >= i.expires_at)
                 THEN 'failed' ELSE o.outcome END,
            CASE WHEN o.outcome = 'completed' THEN uuidv7() END,
            o.content, decode(o.fingerprint, 'hex'),
            -- Both counts or neither, so that total and parts are booked alike.
            CASE WHEN o.completion_tokens IS NULL THEN o.prompt_tokens ELSE coalesce(o.prompt_tokens, 0) END,
            CASE WHEN o.prompt_tokens IS NULL THEN o.completion_tokens ELSE coalesce(o.completion_tokens, 0) END,
            o.error_code, o.error_message, o.retry_after, i.status
        )::settlement AS settlement
        FROM jsonb_to_recordset(outcomes) AS o (
            request_id uuid, attempt smallint, outcome text, content text, fingerprint text, prompt_tokens integer,
            completion_tokens integer, error_code text, error_message text, retry_after double precision)
        JOIN inflight i ON i.request_id = o.request_id AND i.attempt = o.attempt
        WHERE i.request_id = ANY (ids)
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
                processing_time_ms = least(extract(epoch FROM greatest($3, r.started_at) - r.started_at) * 1000, 2147483647)::integer,
                prompt_tokens = s.prompt_tokens, completion_tokens = s.completion_tokens,
                total_tokens = s.prompt_tokens + s.completion_tokens,
                result_id = s.result_id, error_code = s.error_code, error_message = s.error_message
            FROM unnest($1) AS s
            WHERE r.request_id = s.request_id AND r.request_id = ANY ($2)
            RETURNING r.request_id, r.user_id, r.created_at, r.reserved_tokens, coalesce(r.total_tokens, 0) AS used_tokens
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
        INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
        SELECT $4, 'request.' || s.outcome, s.user_id, s.request_id,
               jsonb_build_object('status', s.status_before, 'attempt', s.attempt),
               jsonb_strip_nulls(jsonb_build_object(
                   'status', s.outcome, 'prompt_tokens', s.prompt_tokens, 'completion_tokens', s.completion_tokens,
                   'error_code', s.error_code,
                   'overrun_tokens', nullif(greatest(f.used_tokens - f.reserved_tokens, 0), 0)))
        FROM unnest($1) AS s JOIN finished f ON f.request_id = s.request_id
    $sql$ USING ended, ids, at, by_actor;

    IF requeued IS NOT NULL THEN
        -- To be tried again: back in the queue, due later. SQS delays a message 15 minutes at most; the sweep sends the rest.
        UPDATE inflight i SET
            status = 'queued', lease_until = NULL, not_before = at + make_interval(secs => s.retry_after),
            dispatched_at = CASE WHEN s.retry_after <= 900 THEN at END
        FROM unnest(requeued) AS s WHERE i.request_id = s.request_id;

        EXECUTE $sql$
            UPDATE requests r SET status = 'queued', updated_at = $3
            FROM unnest($1) AS s WHERE r.request_id = s.request_id AND r.request_id = ANY ($2)
        $sql$ USING requeued, ids, at;

        INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
        SELECT by_actor, 'request.requeued', s.user_id, s.request_id,
               jsonb_build_object('status', s.status_before, 'attempt', s.attempt),
               jsonb_build_object('status', 'queued', 'error_code', s.error_code, 'retry_after', s.retry_after)
        FROM unnest(requeued) AS s;
    END IF;

    IF coalesce(cardinality(ended), 0) + coalesce(cardinality(requeued), 0) < cardinality(ids) THEN
        -- Answers to a claim that is no longer the current one. The same flush sent twice finds its own work done.
        RETURN QUERY
            SELECT CASE WHEN is_settlement_of(r, o.attempt, o.outcome) THEN 'settled' ELSE 'superseded' END,
                   o.request_id, r.user_id::text, r.status::text, NULL::integer
            FROM jsonb_to_recordset(outcomes) AS o (request_id uuid, attempt smallint, outcome text)
            LEFT JOIN requests r ON r.request_id = o.request_id AND r.request_id = ANY (ids)
            WHERE NOT EXISTS (SELECT FROM unnest(ended) AS s WHERE s.request_id = o.request_id)
              AND NOT EXISTS (SELECT FROM unnest(requeued) AS s WHERE s.request_id = o.request_id);

        INSERT INTO audit_log (actor, action, user_id, request_id, after)
        SELECT by_actor, 'request.superseded', r.user_id, o.request_id,
               jsonb_build_object('attempt', o.attempt,
                                  'wasted_tokens', coalesce(o.prompt_tokens, 0) + coalesce(o.completion_tokens, 0))
        FROM jsonb_to_recordset(outcomes) AS o (
            request_id uuid, attempt smallint, outcome text, prompt_tokens integer, completion_tokens integer)
        JOIN requests r ON r.request_id = o.request_id AND r.request_id = ANY (ids)
        WHERE NOT EXISTS (SELECT FROM unnest(ended) AS s WHERE s.request_id = o.request_id)
          AND NOT EXISTS (SELECT FROM unnest(requeued) AS s WHERE s.request_id = o.request_id)
          AND NOT is_settlement_of(r, o.attempt, o.outcome);
    END IF;

    RETURN QUERY
        SELECT 'settled', s.request_id, s.user_id, s.outcome, NULL::integer FROM unnest(ended) AS s
        UNION ALL
        SELECT 'requeued', s.request_id, s.user_id, 'queued',
               CASE WHEN s.retry_after <= 900 THEN ceil(s.retry_after)::integer END
        FROM unnest(requeued) AS s;

    -- The places that became free in these users' windows go to their next ones.
    RETURN QUERY
        SELECT 'dispatch', d.request_id, d.user_id, 'queued', 0
        FROM request_dispatch_next(ARRAY(SELECT DISTINCT s.user_id FROM unnest(ended || requeued) AS s), 1000) AS d;
END $$;

-- Marks the next requests of these users as dispatched, as far as their windows have room, and returns them to be sent.
-- The caller holds their gates. A retry that pauses takes no place: it would keep others from a healthy model.
CREATE OR REPLACE FUNCTION request_dispatch_next(of_users text[], at_most integer)
    RETURNS TABLE (request_id uuid, user_id text)
    LANGUAGE sql
BEGIN ATOMIC
    UPDATE inflight i SET dispatched_at = clock_now()
    FROM (
        SELECT next.request_id
        FROM unnest(of_users) AS u (id)
        JOIN quota_plans p ON p.user_id = u.id
        CROSS JOIN LATERAL (
            SELECT count(*) AS dispatched FROM inflight d
            WHERE d.user_id = u.id AND d.dispatched_at IS NOT NULL AND coalesce(d.not_before, '-infinity') <= clock_now()
        ) AS taken
        CROSS JOIN LATERAL (
            SELECT w.request_id FROM inflight w
            WHERE w.user_id = u.id AND w.dispatched_at IS NULL AND w.status = 'queued'
              AND coalesce(w.not_before, '-infinity') <= clock_now() AND w.expires_at > clock_now()
            ORDER BY w.priority DESC, w.request_id
            LIMIT greatest(p.dispatch_window - taken.dispatched, 0)
            FOR UPDATE SKIP LOCKED
        ) AS next
        LIMIT at_most
    ) AS chosen
    WHERE i.request_id = chosen.request_id
    RETURNING i.request_id, i.user_id;
END;

-- A send that failed: the sweep will send it.
CREATE OR REPLACE FUNCTION request_undispatch(ids uuid[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE inflight SET dispatched_at = NULL WHERE request_id = ANY (ids) AND status = 'queued';
$$;
