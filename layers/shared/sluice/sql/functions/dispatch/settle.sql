-- Settling: a worker makes one call for each flush. Every request that ends, ends in settlements_end().

-- What is reported about one attempt:
--   request_id, attempt       the claim that this answers; an answer to an earlier attempt is superseded: it is only
--                             audited
--   outcome                   completed | failed | expired | cancelled | retry | released (not started)
--   output, fingerprint       completed: the answer; SHA-256 in hexadecimal of what was asked
--   prompt_tokens, completion_tokens   as the model reported them, if it did
--   error_code, error_message failed, retry: why, in words for the client
--   retry_after               retry: seconds to wait; the outcome becomes failed if no attempts or lifetime are left
--   usage_doubt               what is audited of a token report that was not booked as it came, or did not add up:
--                             usage_flag, reported_prompt_tokens, reported_completion_tokens
--   cached_tokens, reasoning_tokens    those of prompt_tokens from a cache, and those of completion_tokens from before
--                             the answer; what would be more than the whole is cut off
--   calls                     the calls of models, if one failed or was repeated; then the tokens above are the sums of
--                             those that are charged (retry: of all). Each has model_id, backend, cause, http_status,
--                             the four counts of tokens, is_charged, begun_at, ended_at, and for the circuit breaker
--                             is_outage (the model as a whole seems to be out of service) and is_probe
--   recovered                 a model that answered although calls of it had failed lately
--   content                   completed, with a file: its bytes in base64; output describes it
--   stored                    completed, and kept in the bucket: the object, with its key; output describes it
CALL define_type('outcome', $$
    request_id uuid, attempt smallint, outcome text, output jsonb, fingerprint text, prompt_tokens integer,
    completion_tokens integer, error_code text, error_message text, retry_after double precision, usage_doubt jsonb,
    cached_tokens integer, reasoning_tokens integer, calls jsonb, recovered text, content text, stored jsonb
$$);
-- An outcome that answers a current claim, as outcomes_resolve() has decided it. position: among the outcomes.
-- fingerprint_key, cache_scope, has_webhook, batch_id: those of its inflight row. is_told: there is an event of it.
-- is_batch_due: its batch is to be worked on now.
-- source: the request whose answer it shares, of a request that was not claimed itself; then result_id is that one's,
-- and finish_reason.
CALL define_type('settlement', $$
    request_id uuid, attempt smallint, user_id text, outcome text, result_id uuid, output jsonb, fingerprint bytea,
    prompt_tokens integer, completion_tokens integer, error_code text, error_message text,
    retry_after double precision, status_before text, usage_doubt jsonb, position bigint, cached_tokens integer,
    reasoning_tokens integer, calls jsonb, fingerprint_key bytea, cache_scope uuid, source uuid, finish_reason text,
    content text, stored jsonb, has_webhook boolean, is_told boolean, batch_id uuid, is_batch_due boolean
$$);
-- What became of each outcome:
--   kind  settled | superseded | requeued (delay_seconds, if given: send a message with this delay)
--         | dispatch (another request, of a user whose dispatch window has room again: send its message)
--   is_told  webhooks are to be sent of it: wake up who sends them
--   is_batch_due  so few requests of its batch are unfinished that more are to be submitted: wake up who does that
CALL define_type('settled', $$
    kind text, request_id uuid, user_id text, status text, delay_seconds integer, is_told boolean,
    is_batch_due boolean
$$);

CREATE OR REPLACE FUNCTION request_settle(p_outcomes jsonb, p_actor text) RETURNS SETOF settled
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    outcomes outcome[] := outcomes_read(p_outcomes);
    users    text[] := ARRAY(
        SELECT DISTINCT i.user_id FROM inflight i
        WHERE i.request_id = ANY (ARRAY(SELECT o.request_id FROM unnest(outcomes) AS o)));
BEGIN
    PERFORM users_lock(users);
    RETURN QUERY SELECT * FROM outcomes_settle(outcomes, p_actor);
    IF EXISTS (SELECT FROM unnest(outcomes) AS o WHERE o.calls IS NOT NULL OR o.recovered IS NOT NULL) THEN
        PERFORM breakers_note(outcomes, p_actor);
    END IF;
    RETURN QUERY SELECT 'dispatch', d.request_id, d.user_id, 'queued', 0, NULL::boolean, NULL::boolean
                 FROM dispatch_waiting(users, 1000) AS d;
END $$;
COMMENT ON FUNCTION request_settle(jsonb, text) IS 'p_outcomes: an array of objects with the attributes of outcome.';

-- The core; the caller holds the user locks.
CREATE OR REPLACE FUNCTION outcomes_settle(p_outcomes outcome[], p_actor text) RETURNS SETOF settled
    LANGUAGE plpgsql AS $$
DECLARE
    at       timestamptz := clock_now();
    ended    settlement[];
    requeued settlement[];
    landed   settlement[];
BEGIN
    SELECT array_agg(s) FILTER (WHERE s.outcome NOT IN ('retry', 'released')),
           array_agg(s) FILTER (WHERE s.outcome IN ('retry', 'released'))
    INTO ended, requeued
    FROM outcomes_resolve(p_outcomes, at) AS s;

    IF ended IS NOT NULL THEN
        ended := settlements_end(ended, p_actor, at);
        IF EXISTS (SELECT FROM unnest(ended) AS s WHERE s.fingerprint_key IS NOT NULL) THEN
            landed := ARRAY(SELECT f FROM flights_land(ended, p_actor, at) AS f);
        END IF;
    END IF;
    IF requeued IS NOT NULL THEN
        requeued := settlements_requeue(requeued, p_actor, at);
    END IF;
    IF cardinality(p_outcomes) > coalesce(cardinality(ended), 0) + coalesce(cardinality(requeued), 0) THEN
        RETURN QUERY SELECT * FROM outcomes_late(
            p_outcomes, ARRAY(SELECT s.position FROM unnest(ended || requeued) AS s), p_actor);
    END IF;
    RETURN QUERY
        SELECT 'settled', s.request_id, s.user_id, s.outcome, NULL::integer, s.is_told, s.is_batch_due
        FROM unnest(ended || landed) AS s
        UNION ALL
        -- SQS delays a message by 15 minutes at most; after a longer pause, the recovery task sends the message.
        SELECT 'requeued', s.request_id, s.user_id, 'queued',
               CASE WHEN s.retry_after > 0 AND s.retry_after <= 900 THEN ceil(s.retry_after)::integer END,
               NULL::boolean, NULL::boolean
        FROM unnest(requeued) AS s;
END $$;

-- The steps -----------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION outcomes_read(p_outcomes jsonb) RETURNS outcome[]
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(SELECT o FROM jsonb_populate_recordset(NULL::outcome, p_outcomes) AS o);
END $$;

-- The outcomes that answer a current claim, and what each becomes: a request whose cancellation was requested is
-- cancelled, whatever the answer; a retry without attempts or lifetime left becomes failed.
-- Only one counts for each request, even if a flush names it twice. An answer after the lease ran out still counts if
-- no newer attempt has started, but only requests that are still processing go back to the queue.
-- STABLE, although it makes ids, so that PostgreSQL puts it into the query.
CREATE OR REPLACE FUNCTION outcomes_resolve(p_outcomes outcome[], p_at timestamptz) RETURNS SETOF settlement
    LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (i.request_id)
           i.request_id, i.attempt, i.user_id::text, e.outcome, CASE WHEN e.outcome = 'completed' THEN uuidv7() END,
           o.output, decode(o.fingerprint, 'hex'),
           -- Both counts or neither: if the model reported only one, the other is 0, so that there is a total of both.
           CASE WHEN o.completion_tokens IS NULL THEN o.prompt_tokens ELSE coalesce(o.prompt_tokens, 0) END,
           CASE WHEN o.prompt_tokens IS NULL THEN o.completion_tokens ELSE coalesce(o.completion_tokens, 0) END,
           CASE WHEN e.outcome <> 'cancelled' THEN o.error_code END,
           CASE WHEN e.outcome <> 'cancelled' THEN o.error_message || CASE
               WHEN o.outcome <> 'retry' OR e.outcome <> 'failed' THEN ''
               WHEN i.failed_attempts + 1 >= i.max_attempts
                   THEN format(' It was tried %s times.', i.failed_attempts + 1)
               ELSE ' Its lifetime would have ended before the next attempt.' END END,
           o.retry_after, i.status::text, o.usage_doubt, o.ordinality,
           -- From 0 to the count of which they are a part, NULL for none. greatest() and least() pass over NULL.
           nullif(least(greatest(o.cached_tokens, 0), greatest(o.prompt_tokens, 0)), 0),
           nullif(least(greatest(o.reasoning_tokens, 0), greatest(o.completion_tokens, 0)), 0), o.calls,
           i.fingerprint, i.cache_scope, NULL::uuid, NULL::text,
           CASE WHEN e.outcome = 'completed' THEN o.content END,
           CASE WHEN e.outcome = 'completed' THEN o.stored END, i.has_webhook, NULL::boolean, i.batch_id, NULL::boolean
    FROM unnest(p_outcomes) WITH ORDINALITY AS o
    JOIN inflight i ON i.request_id = o.request_id AND i.attempt = o.attempt
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN i.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN o.outcome = 'retry' AND (i.failed_attempts + 1 >= i.max_attempts
                                          OR p_at + make_interval(secs => o.retry_after) >= i.expires_at) THEN 'failed'
            ELSE o.outcome END AS outcome
    ) AS e
    -- Also compare the ids, so that the rows are found by their primary key.
    WHERE i.request_id = ANY (ARRAY(SELECT n.request_id FROM unnest(p_outcomes) AS n))
      AND (i.status = 'processing' OR o.outcome NOT IN ('retry', 'released'))
    ORDER BY i.request_id, o.ordinality;
$$;

-- Deletes the inflight rows, stores the answers, and records in requests, quotas and audit log how the requests ended.
-- Returns those that it ended: a request whose lease has run out may have been claimed again meanwhile.
-- It is one statement: each table is changed once, and the quotas that it reads cannot change meanwhile, because the
-- user locks are held.
CREATE OR REPLACE FUNCTION settlements_end(p_ended settlement[], p_actor text, p_at timestamptz) RETURNS settlement[]
    LANGUAGE plpgsql AS $$
DECLARE
    ids   constant uuid[] := ARRAY(SELECT s.request_id FROM unnest(p_ended) AS s ORDER BY 1);
    ended settlement[];
    plans record;
    told  uuid[];
    due   uuid[];
BEGIN
    WITH gone AS (
        DELETE FROM inflight i USING unnest(p_ended) AS s
        WHERE i.request_id = s.request_id AND i.attempt = s.attempt AND i.request_id = ANY (ids)
        RETURNING s AS settlement, s.*
    ), kept AS (
        INSERT INTO results (result_id, request_id, output, token_count, fingerprint)
        SELECT s.result_id, s.request_id, s.output, s.completion_tokens, s.fingerprint
        FROM gone s WHERE s.outcome = 'completed' AND s.source IS NULL
    ), finished AS (
        UPDATE requests r SET
            status = s.outcome, updated_at = p_at,
            completed_at = greatest(p_at, r.started_at, r.created_at),
            -- A lost claim may be found weeks later: 2^31 ms are 25 days.
            processing_time_ms = CASE WHEN r.started_at IS NOT NULL THEN
                least(extract(epoch FROM greatest(p_at, r.started_at) - r.started_at) * 1000, 2147483647)::integer END,
            prompt_tokens = s.prompt_tokens, completion_tokens = s.completion_tokens,
            total_tokens = s.prompt_tokens + s.completion_tokens,
            cached_tokens = s.cached_tokens, reasoning_tokens = s.reasoning_tokens, charges = calls_charges(s.calls),
            result_id = s.result_id, error_code = s.error_code, error_message = s.error_message,
            finish_reason = CASE WHEN s.outcome = 'completed'
                                 THEN coalesce(s.output->>'finish_reason', s.finish_reason) END,
            cached_from = s.source
        FROM gone s
        -- The range lets the cached plan open only the partitions of these months; the list does not.
        WHERE r.request_id = s.request_id AND r.request_id = ANY (ids)
          AND r.request_id BETWEEN ids[1] AND ids[cardinality(ids)]
        RETURNING r.request_id, r.user_id, r.created_at, r.reserved_tokens, r.processing_time_ms, r.finish_reason,
                  window_kept(r.status, r.completed_at, r.due_at) AS window_kept,
                  coalesce(r.total_tokens, 0) AS used_tokens
    ), booked AS (
        -- A quota row changes only if its period still contains the request; usage gets the tokens in any case.
        UPDATE quotas q SET tokens_reserved = q.tokens_reserved - d.reserved, tokens_used = q.tokens_used + d.used
        FROM (
            SELECT p.user_id, p.quota_period, sum(f.reserved_tokens) AS reserved, sum(f.used_tokens) AS used
            FROM finished f
            JOIN quotas p ON p.user_id = f.user_id AND f.created_at >= p.period_start AND f.created_at < p.reset_at
            GROUP BY p.user_id, p.quota_period
        ) AS d
        WHERE q.user_id = d.user_id AND q.quota_period = d.quota_period
    ), audited AS (
        INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
        SELECT p_actor, 'request.' || CASE WHEN s.source IS NULL THEN s.outcome ELSE 'cached' END, s.user_id,
               s.request_id, jsonb_build_object('status', s.status_before, 'attempt', s.attempt),
               jsonb_strip_nulls(jsonb_build_object(
                   'status', s.outcome, 'cached_from', s.source, 'prompt_tokens', s.prompt_tokens,
                   'completion_tokens', s.completion_tokens,
                   'cached_tokens', s.cached_tokens, 'reasoning_tokens', s.reasoning_tokens,
                   'error_code', s.error_code, 'processing_time_ms', f.processing_time_ms,
                   'finish_reason', f.finish_reason, 'window_kept', f.window_kept,
                   'overrun_tokens', nullif(greatest(f.used_tokens - f.reserved_tokens, 0), 0),
                   'calls', s.calls, 'wasted_tokens', calls_wasted(s.calls))
                   || coalesce(s.usage_doubt, '{}'))
        FROM gone s JOIN finished f ON f.request_id = s.request_id
    )
    SELECT array_agg(g.settlement ORDER BY g.request_id) INTO ended FROM gone g;

    -- Few answers are files: the statement above is not made dearer for them.
    IF EXISTS (SELECT FROM unnest(ended) AS s WHERE s.content IS NOT NULL OR s.stored IS NOT NULL) THEN
        PERFORM object_keep(s.stored, s.request_id) FROM unnest(ended) AS s WHERE s.stored IS NOT NULL;
        INSERT INTO binary_results (result_id, request_id, content, mime_type, object_id)
        SELECT s.result_id, s.request_id, coalesce(decode(s.content, 'base64'), ''),
               coalesce(s.stored->>'mime_type', s.output #>> '{items,0,mime_type}'), (s.stored->>'object_id')::uuid
        FROM unnest(ended) AS s WHERE s.content IS NOT NULL OR s.stored IS NOT NULL;
    END IF;
    PERFORM attempts_keep(s.request_id, s.attempt, s.calls, true) FROM unnest(ended) AS s WHERE s.calls IS NOT NULL;
    SELECT bool_or(p.has_budgets) AS has_budgets,
           bool_or(p.has_webhooks) OR EXISTS (SELECT FROM unnest(ended) AS s WHERE s.has_webhook) AS has_webhooks
    INTO plans
    FROM quota_plans p WHERE p.user_id = ANY (ARRAY(SELECT s.user_id FROM unnest(ended) AS s));
    IF plans.has_budgets THEN
        PERFORM budget_settle(ARRAY(SELECT s.request_id FROM unnest(ended) AS s));
    END IF;
    IF plans.has_webhooks THEN
        told := webhooks_note(ARRAY(SELECT s.request_id FROM unnest(ended) AS s), p_at);
        ended := ARRAY(
            SELECT jsonb_populate_record(s, jsonb_build_object('is_told', s.request_id = ANY (told)))
            FROM unnest(ended) AS s);
    END IF;
    IF EXISTS (SELECT FROM unnest(ended) AS s WHERE s.batch_id IS NOT NULL) THEN
        due := batches_note(ended, p_at);
        IF due <> '{}' THEN
            ended := ARRAY(
                SELECT jsonb_populate_record(s, jsonb_build_object('is_batch_due', s.batch_id = ANY (due)))
                FROM unnest(ended) AS s);
        END IF;
    END IF;
    RETURN ended;
END $$;

-- Puts requests back into the queue: a retry may start when its pause is over, a released request at once. Tokens that
-- the model reported for an attempt that is tried again are audited as wasted: its provider charges for them, and no
-- user is charged.
CREATE OR REPLACE FUNCTION settlements_requeue(p_requeued settlement[], p_actor text, p_at timestamptz)
    RETURNS settlement[]
    LANGUAGE plpgsql AS $$
DECLARE
    ids      constant uuid[] := ARRAY(SELECT s.request_id FROM unnest(p_requeued) AS s ORDER BY 1);
    requeued settlement[];
BEGIN
    WITH back AS (
        UPDATE inflight i SET
            status = 'queued', lease_until = NULL, dispatched_at = NULL,
            not_before = p_at + make_interval(secs => s.retry_after), is_held = false,
            failed_attempts = i.failed_attempts + (s.outcome = 'retry')::integer,
            last_error = CASE s.outcome WHEN 'retry' THEN s.error_code ELSE i.last_error END
        FROM unnest(p_requeued) AS s
        WHERE i.request_id = s.request_id AND i.attempt = s.attempt AND i.request_id = ANY (ids)
        RETURNING s AS settlement, s.*
    ), queued AS (
        UPDATE requests r SET status = 'queued', updated_at = p_at
        FROM back s
        WHERE r.request_id = s.request_id AND r.request_id = ANY (ids)
          AND r.request_id BETWEEN ids[1] AND ids[cardinality(ids)]
    ), audited AS (
        INSERT INTO audit_log (actor, action, user_id, request_id, before, after)
        SELECT p_actor, 'request.requeued', s.user_id, s.request_id,
               jsonb_build_object('status', s.status_before, 'attempt', s.attempt),
               jsonb_build_object('status', 'queued', 'error_code', coalesce(s.error_code, s.outcome),
                                  'retry_after', s.retry_after)
                   || jsonb_strip_nulls(jsonb_build_object('wasted_tokens',
                                                           nullif(s.prompt_tokens + s.completion_tokens, 0),
                                                           'calls', s.calls)
                                        || coalesce(s.usage_doubt, '{}'))
        FROM back s
    )
    SELECT array_agg(b.settlement ORDER BY b.request_id) INTO requeued FROM back b;
    PERFORM attempts_keep(s.request_id, s.attempt, s.calls, false)
    FROM unnest(requeued) AS s WHERE s.calls IS NOT NULL;
    RETURN requeued;
END $$;

-- Answers to a claim that is no longer the current one. If a flush is sent twice, the second one is answered like the
-- first and changes nothing; the tokens of all other late answers are audited as wasted.
CREATE OR REPLACE FUNCTION outcomes_late(p_outcomes outcome[], p_current bigint[], p_actor text) RETURNS SETOF settled
    LANGUAGE plpgsql AS $$
DECLARE
    late record;
    r    requests;
BEGIN
    FOR late IN
        SELECT * FROM unnest(p_outcomes) WITH ORDINALITY AS o WHERE o.ordinality <> ALL (p_current)
    LOOP
        SELECT * INTO r FROM requests q WHERE q.request_id = late.request_id;
        IF is_repeat_of(r, late.attempt, late.outcome, late.prompt_tokens, late.completion_tokens) THEN
            RETURN NEXT ROW('settled', late.request_id, r.user_id, r.status, NULL, NULL, NULL)::settled;
        ELSIF r.status = 'queued' AND r.attempts = late.attempt AND late.outcome IN ('retry', 'released') THEN
            RETURN NEXT ROW('requeued', late.request_id, r.user_id, r.status, NULL, NULL, NULL)::settled;
        ELSE
            IF r.user_id IS NOT NULL THEN
                PERFORM audit_write(p_actor, ARRAY[ROW(
                    'request.superseded', r.user_id, NULL, late.request_id, NULL,
                    jsonb_build_object('attempt', late.attempt, 'wasted_tokens',
                        coalesce(late.prompt_tokens, 0) + coalesce(late.completion_tokens, 0)
                        + CASE WHEN late.outcome <> 'retry' THEN coalesce(calls_wasted(late.calls), 0) ELSE 0 END
                    ))::audit_entry]);
                PERFORM attempts_keep(late.request_id, late.attempt, late.calls, false) WHERE late.calls IS NOT NULL;
            END IF;
            RETURN NEXT ROW('superseded', late.request_id, r.user_id, r.status, NULL, NULL, NULL)::settled;
        END IF;
    END LOOP;
END $$;

-- Whether a request ended in exactly this way: this distinguishes a flush that is sent twice from an answer that comes
-- too late.
CREATE OR REPLACE FUNCTION is_repeat_of(
    r requests, p_attempt smallint, p_outcome text, p_prompt_tokens integer, p_completion_tokens integer
)
    RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN coalesce(r.attempts = p_attempt AND r.completed_at IS NOT NULL
                    AND (r.status = p_outcome OR (r.status, p_outcome) = ('failed', 'retry') OR r.status = 'cancelled')
                    AND coalesce(r.total_tokens, 0) = coalesce(p_prompt_tokens, 0) + coalesce(p_completion_tokens, 0),
                    false);
