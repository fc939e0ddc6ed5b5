-- Working on batches: one worker has a batch at a time, does a step, commits it with how far it has come, and gives it
-- back. Whoever comes after a crash goes on where the last commit was. The worker reads the file and writes the others;
-- what is decided is decided here.

-- A batch that is to be worked on now. stored, with its key: what its lines are read from.
CALL define_type('batch_claim', $$
    batch_id uuid, attempt integer, user_id text, endpoint text, status text, is_expired boolean, stored jsonb,
    scanned_bytes bigint, scanned_lines integer, fed_to integer, total integer, fed integer, running integer,
    room integer
$$);
-- How a batch stands after a step. running: its requests that are unfinished. room: for how many more requests of it
-- there is some. outcome: ok; superseded: another worker has it, and nothing was written; of feeding also what it waits
-- for.
CALL define_type('batch_progress', $$
    outcome text, status text, fed_to integer, fed integer, total integer, running integer,
    retry_after double precision, send uuid[], user_id text, room integer
$$);

-- Half of what a user may have unfinished is left to the user's other requests.
CREATE OR REPLACE FUNCTION batch_room(b batches) RETURNS integer
    LANGUAGE sql STABLE
    RETURN greatest(least((SELECT greatest(p.max_unfinished / 2, 1) FROM quota_plans p WHERE p.user_id = b.user_id),
                          (batch_rules()).ahead) - (b.fed - b.completed - b.failed), 0);

CREATE OR REPLACE FUNCTION batch_claim(p_lease_seconds double precision) RETURNS SETOF batch_claim
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at constant timestamptz := clock_now();
    b  batches;
BEGIN
    SELECT * INTO b FROM batches o
    WHERE o.next_at <= at AND coalesce(o.leased_until <= at, true)
    ORDER BY o.next_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE batches o SET
        attempt = o.attempt + 1, leased_until = at + make_interval(secs => p_lease_seconds), refill_at = -1
    WHERE o.batch_id = b.batch_id RETURNING * INTO b;
    RETURN QUERY SELECT b.batch_id, b.attempt, b.user_id::text, b.endpoint::text, b.status::text,
                        b.expires_at <= at, object_json(b.input_object_id), b.scanned_bytes, b.scanned_lines, b.fed_to,
                        b.total, b.fed, b.fed - b.completed - b.failed, batch_room(b);
END $$;
COMMENT ON FUNCTION batch_claim(double precision) IS
    'The batch that has been due for the longest time, or none. If its worker is not heard of for so long, it is due '
    'again.';

-- The batch, locked, if this claim is the current one; its lease is drawn out. All of its fields are NULL if another
-- worker has it.
CREATE OR REPLACE FUNCTION batch_lock(p_batch_id uuid, p_attempt integer) RETURNS batches
    LANGUAGE plpgsql AS $$
DECLARE
    b batches;
BEGIN
    UPDATE batches o SET leased_until = clock_now() + interval '2 minutes'
    WHERE o.batch_id = p_batch_id AND o.attempt = p_attempt AND o.ended_at IS NULL
    RETURNING * INTO b;
    RETURN b;
END $$;

CREATE OR REPLACE FUNCTION batch_progress_of(b batches, p_outcome text) RETURNS batch_progress
    LANGUAGE sql STABLE
    RETURN ROW(CASE WHEN b.batch_id IS NULL THEN 'superseded' ELSE p_outcome END, b.status, b.fed_to, b.fed, b.total,
               b.fed - b.completed - b.failed, NULL, '{}'::uuid[], b.user_id, batch_room(b))::batch_progress;

-- Looking through the file --------------------------------------------------------------------------------------------

-- p_lines: line, custom_id, position, length of each that is well formed. p_faults: code, line, param, message of those
-- that are not. p_bytes, p_count: how far the file was read, in bytes and lines. p_is_end: to its end.
CREATE OR REPLACE FUNCTION batch_scan(
    p_batch_id uuid, p_attempt integer, p_lines jsonb, p_faults jsonb, p_bytes bigint, p_count integer, p_is_end boolean
)
    RETURNS batch_progress
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at    constant timestamptz := clock_now();
    rules constant record := batch_rules();
    b     batches := batch_lock(p_batch_id, p_attempt);
    found jsonb;
    added integer;
BEGIN
    -- The second half: this part was kept already, and the answer was lost.
    IF b.status IS DISTINCT FROM 'validating' OR p_bytes <= b.scanned_bytes AND NOT p_is_end THEN
        RETURN batch_progress_of(b, 'ok');
    END IF;
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(p_lines) AS l (line integer, custom_id text, position bigint, length integer)
    ), kept AS (
        INSERT INTO batch_lines (batch_id, line, custom_id, position, length)
        SELECT b.batch_id, g.line, g.custom_id, g.position, g.length FROM given g ORDER BY g.line
        ON CONFLICT (batch_id, custom_id) DO NOTHING
        RETURNING line
    )
    SELECT (SELECT count(*) FROM kept),
           (SELECT jsonb_agg(jsonb_build_object(
                       'code', 'duplicate_custom_id', 'line', g.line, 'param', 'custom_id',
                       'message', 'An earlier line has the same custom_id.') ORDER BY g.line)
            FROM given g WHERE g.line NOT IN (SELECT k.line FROM kept k))
    INTO added, found;
    found := coalesce(b.faults, '[]') || p_faults || coalesce(found, '[]');
    IF b.total + added > rules.most_lines THEN
        found := found || jsonb_build_array(jsonb_build_object(
            'code', 'too_many_lines', 'line', NULL, 'param', NULL,
            'message', format('The file has more than %s lines.', rules.most_lines)));
    ELSIF p_is_end AND b.total + added = 0 AND found = '[]' THEN
        found := jsonb_build_array(jsonb_build_object(
            'code', 'empty_file', 'line', NULL, 'param', NULL, 'message', 'The file has no line.'));
    END IF;
    UPDATE batches o SET
        scanned_bytes = p_bytes, scanned_lines = p_count, total = o.total + added, faults = nullif(found, '[]')
    WHERE o.batch_id = b.batch_id RETURNING * INTO b;
    IF p_is_end AND b.faults IS NULL THEN
        UPDATE batches o SET status = 'in_progress', in_progress_at = at WHERE o.batch_id = b.batch_id
        RETURNING * INTO b;
    ELSIF b.faults IS NOT NULL
          AND (p_is_end OR jsonb_array_length(b.faults) >= rules.most_faults OR b.total > rules.most_lines)
    THEN
        b := batch_reject(b, at);
    END IF;
    RETURN batch_progress_of(b, 'ok');
END $$;
COMMENT ON FUNCTION batch_scan(uuid, integer, jsonb, jsonb, bigint, integer, boolean) IS
    'Keeps what was found in a part of the file. At its end, the batch is in progress or, if a line is wrong, failed.';

-- Ends a batch of whose lines none was submitted. The first faults are listed, in the order of the lines.
CREATE OR REPLACE FUNCTION batch_reject(b batches, p_at timestamptz) RETURNS batches
    LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM batch_lines l WHERE l.batch_id = b.batch_id;
    UPDATE batches o SET
        total = 0,
        faults = (SELECT jsonb_agg(f.fault ORDER BY f.n)
                  FROM (SELECT e.fault, row_number() OVER (ORDER BY (e.fault->>'line')::integer NULLS FIRST, e.n) AS n
                        FROM jsonb_array_elements(b.faults) WITH ORDINALITY AS e (fault, n)) AS f
                  WHERE f.n <= (batch_rules()).most_faults)
    WHERE o.batch_id = b.batch_id;
    RETURN batch_end(b.batch_id, 'failed', p_at);
END $$;

-- Ends a batch whose file cannot be read any more, before one of its lines was submitted.
CREATE OR REPLACE FUNCTION batch_unreadable(p_batch_id uuid, p_attempt integer) RETURNS batch_progress
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    b batches := batch_lock(p_batch_id, p_attempt);
BEGIN
    IF b.status = 'validating' THEN
        UPDATE batches o SET faults = jsonb_build_array(jsonb_build_object(
            'code', 'file_unreadable', 'line', NULL, 'param', 'input_file_id',
            'message', 'The file cannot be read any more.'))
        WHERE o.batch_id = b.batch_id RETURNING * INTO b;
        b := batch_reject(b, clock_now());
    END IF;
    RETURN batch_progress_of(b, 'ok');
END $$;

-- Submitting lines ----------------------------------------------------------------------------------------------------

CALL define_type('batch_line', $$line integer, position bigint, length integer$$);

CREATE OR REPLACE FUNCTION batch_next_lines(p_batch_id uuid, p_after integer, p_limit integer) RETURNS SETOF batch_line
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT l.line, l.position, l.length FROM batch_lines l
    WHERE l.batch_id = p_batch_id AND l.line > p_after ORDER BY l.line LIMIT p_limit;
$$;
COMMENT ON FUNCTION batch_next_lines(uuid, integer, integer) IS 'The lines after this one, in their order.';

-- What refuses a line only for now. The others refuse it for good.
CREATE OR REPLACE FUNCTION batch_waits(p_outcome text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN p_outcome IN ('quota_exceeded', 'budget_exceeded', 'unfinished_exceeded');

-- p_lines, in their order: line, and submission (as of request_submit) or error (status_code and body, of a line that
-- is no request of the endpoint). A line that is refused for now, and all after it, are to be given again later. Of a line
-- that is refused for good, its error says why: outcome and detail of request_submit, and model.
CREATE OR REPLACE FUNCTION batch_feed(p_batch_id uuid, p_attempt integer, p_lines jsonb) RETURNS batch_progress
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    at       constant timestamptz := clock_now();
    plan     quota_plans := user_lock((SELECT o.user_id FROM batches o WHERE o.batch_id = p_batch_id));
    b        batches := batch_lock(p_batch_id, p_attempt);
    k        api_keys;
    room     integer;
    each     record;
    made     decision;
    problem  jsonb;
    accepted integer := 0;
    answered integer := 0;
    refused  integer := 0;
    upto     integer := b.fed_to;
    result   batch_progress := batch_progress_of(b, 'ok');
BEGIN
    IF b.status IS DISTINCT FROM 'in_progress' OR b.expires_at <= at THEN
        RETURN result;
    END IF;
    SELECT * INTO k FROM api_keys a WHERE a.key_id = b.key_id;
    -- A key that has expired since was valid when the batch was accepted; one that was revoked is to do nothing more.
    IF k.revoked_at <= at OR NOT (SELECT u.is_active FROM users u WHERE u.user_id = b.user_id) THEN
        RETURN batch_progress_of(batch_stop(b, CASE WHEN k.revoked_at <= at THEN 'key_revoked' ELSE 'user_inactive' END,
                                            'batches', b.key_id, at), 'ok');
    END IF;
    room := result.room;
    FOR each IN SELECT * FROM jsonb_to_recordset(p_lines) AS l (line integer, submission jsonb, error jsonb) LOOP
        CONTINUE WHEN each.line <= upto;
        problem := each.error;
        IF problem IS NULL THEN
            EXIT WHEN room <= accepted - answered;
            made := request_admit(
                plan, b.key_id, k.models, k.cache_max_age, 'batches',
                each.submission || jsonb_build_object(
                    'batch_id', b.batch_id, 'window', b.completion_window, 'due_at', b.expires_at,
                    'expires_at', b.expires_at,
                    -- Its lifetime is the batch's, whatever that of other requests is.
                    'longest_seconds', ceil(extract(epoch FROM b.expires_at - b.created_at))::integer + 1),
                false);
            IF made.outcome = 'accepted' THEN
                accepted := accepted + 1;
                answered := answered + (made.detail ? 'status')::integer;
                UPDATE batch_lines l SET request_id = made.request_id
                WHERE l.batch_id = b.batch_id AND l.line = each.line;
            ELSIF batch_waits(made.outcome) THEN
                result.outcome := coalesce(made.detail->>'code', made.outcome);
                result.retry_after := (made.detail->>'retry_after')::double precision;
                EXIT;
            ELSE
                problem := jsonb_build_object('outcome', made.outcome, 'detail', made.detail,
                                              'model', each.submission->'model');
            END IF;
        END IF;
        IF problem IS NOT NULL THEN
            refused := refused + 1;
            UPDATE batch_lines l SET error = problem WHERE l.batch_id = b.batch_id AND l.line = each.line;
        END IF;
        upto := each.line;
    END LOOP;
    UPDATE batches o SET
        fed_to = upto, fed = o.fed + accepted + refused, completed = o.completed + answered,
        failed = o.failed + refused, waits_for = nullif(result.outcome, 'ok')
    WHERE o.batch_id = b.batch_id RETURNING * INTO b;
    result := ROW(result.outcome, b.status, b.fed_to, b.fed, b.total, b.fed - b.completed - b.failed,
                  result.retry_after, '{}'::uuid[], b.user_id, room - accepted + answered)::batch_progress;
    IF accepted > answered THEN
        result.send := ARRAY(
            SELECT w.request_id FROM dispatch_waiting(ARRAY[b.user_id::text], plan.dispatch_window) AS w);
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION batch_feed(uuid, integer, jsonb) IS
    'Submits lines: each is an ordinary request of the batch''s key. outcome: ok; superseded; or the code of the '
    'refusal because of which the next line waits. send: requests whose messages are to be sent now.';

-- Cancelling ----------------------------------------------------------------------------------------------------------

-- Cancels those of its requests that no worker has, p_limit at most. Those at a worker end as they would: what they
-- cost was spent.
CREATE OR REPLACE FUNCTION batch_cancel_waiting(p_batch_id uuid, p_attempt integer, p_limit integer)
    RETURNS batch_progress
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    b       batches;
    owner   text := (SELECT o.user_id FROM batches o WHERE o.batch_id = p_batch_id);
    chosen  outcome[];
    result  batch_progress;
BEGIN
    PERFORM user_lock(owner);
    b := batch_lock(p_batch_id, p_attempt);
    IF b.status = 'cancelling' THEN
        chosen := outcomes_read((
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'request_id', i.request_id, 'attempt', i.attempt, 'outcome', 'cancelled')), '[]')
            FROM (SELECT w.request_id, w.attempt FROM inflight w
                  WHERE w.user_id = owner AND w.batch_id = b.batch_id AND w.status = 'queued'
                  ORDER BY w.request_id LIMIT p_limit FOR UPDATE) AS i));
        PERFORM FROM outcomes_settle(chosen, 'batches');
        SELECT * INTO b FROM batches o WHERE o.batch_id = p_batch_id;
    END IF;
    result := batch_progress_of(b, 'ok');
    IF chosen <> '{}' THEN
        result.send := ARRAY(SELECT w.request_id FROM dispatch_waiting(ARRAY[owner], 1000) AS w);
    END IF;
    RETURN result;
END $$;

-- Giving back ---------------------------------------------------------------------------------------------------------

-- Lets the batch be worked on again after so many seconds, when its window ends, or when no more than p_refill_at of
-- its requests are unfinished: at once, if that is so now or its state is no longer the one that the worker saw.
CREATE OR REPLACE FUNCTION batch_put_back(
    p_batch_id uuid, p_attempt integer, p_status text, p_seconds double precision, p_refill_at integer
)
    RETURNS double precision
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    at   constant timestamptz := clock_now();
    next timestamptz;
BEGIN
    UPDATE batches o SET
        leased_until = NULL,
        refill_at = CASE WHEN o.fed - o.completed - o.failed > p_refill_at THEN p_refill_at ELSE -1 END,
        next_at = CASE WHEN o.fed - o.completed - o.failed <= p_refill_at OR o.status <> p_status THEN at
                       WHEN o.expires_at > at THEN least(o.expires_at, at + make_interval(secs => p_seconds))
                       ELSE at + make_interval(secs => p_seconds) END
    WHERE o.batch_id = p_batch_id AND o.attempt = p_attempt AND o.ended_at IS NULL
    RETURNING o.next_at INTO next;
    RETURN CASE WHEN next IS NOT NULL THEN greatest(extract(epoch FROM next - at), 0) END;
END $$;
COMMENT ON FUNCTION batch_put_back(uuid, integer, text, double precision, integer) IS
    'Returns after how many seconds it is due; NULL: another worker has it, or it has ended.';

-- For the recovery task: how many batches are due and not at a worker.
CREATE OR REPLACE FUNCTION batches_due() RETURNS integer
    LANGUAGE sql STABLE SECURITY DEFINER
    RETURN (SELECT count(*)::integer FROM batches b
            WHERE b.next_at <= clock_now() AND coalesce(b.leased_until <= clock_now(), true));
