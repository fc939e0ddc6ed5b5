-- Batches: what they are, and how they are made, shown and cancelled. What is done with them is in work.sql.

-- most_lines, most_bytes: of a file, as OpenAI's API has them. most_unended: batches of a user that have not ended.
-- most_faults: lines that are listed as wrong; more would not be read. ahead: how many requests of a batch may be
-- unfinished at a time. kept: how long the lines of ended batches are kept.
CREATE OR REPLACE FUNCTION batch_rules(
    OUT most_lines integer, OUT most_bytes bigint, OUT most_unended integer, OUT most_faults integer,
    OUT ahead integer, OUT kept interval
)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 50000, 209715200::bigint, 50, 100, 1000, interval '30 days';
$$;

-- A batch as people see it. running: its requests that are unfinished.
CREATE OR REPLACE FUNCTION batch_json(b batches) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(b) - '{input_object_id,attempt,leased_until,refill_at,scanned_bytes,scanned_lines,fed_to}'::text[]
           || jsonb_build_object(
               'running', CASE WHEN b.ended_at IS NULL THEN b.fed - b.completed - b.failed ELSE 0 END);
$$;

CREATE OR REPLACE FUNCTION batch_audit(
    p_actor text, p_action text, b batches, p_key_id uuid, p_after jsonb DEFAULT '{}'
)
    RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM audit_write(p_actor, ARRAY[ROW(
        p_action, b.user_id, p_key_id, NULL, NULL,
        jsonb_build_object('batch_id', b.batch_id, 'status', b.status) || p_after)::audit_entry]);
END $$;

-- The counts that the audit row of an end has.
CREATE OR REPLACE FUNCTION batch_counts(b batches) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('total', b.total, 'completed', b.completed, 'failed', b.failed);

CALL define_type('batch_answer', $$outcome text, value jsonb$$);

-- The core of every act; the user is known.
CREATE OR REPLACE FUNCTION batch_act(p_user_id text, p_actor text, p_key_id uuid, p_act text, a jsonb)
    RETURNS batch_answer
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at     constant timestamptz := clock_now();
    rules  constant record := batch_rules();
    b      batches;
    f      files;
    result batch_answer;
BEGIN
    result.outcome := 'ok';
    IF p_act IN ('create', 'cancel') THEN
        PERFORM user_lock(p_user_id);
    END IF;
    CASE p_act
    WHEN 'create' THEN
        f := file_find(p_user_id, (a->>'input_file_id')::uuid);
        IF f.file_id IS NULL THEN
            result.outcome := 'file_not_found';
        ELSIF f.purpose <> 'batch' THEN
            result.outcome := 'batch_file_unfit';
            result.value := jsonb_build_object('purpose', f.purpose);
        ELSIF f.byte_length > rules.most_bytes THEN
            result.outcome := 'batch_file_too_large';
            result.value := jsonb_build_object('byte_length', f.byte_length, 'most', rules.most_bytes);
        ELSIF (SELECT count(*) FROM batches u WHERE u.user_id = p_user_id AND u.next_at IS NOT NULL)
              >= rules.most_unended
        THEN
            result.outcome := 'batches_exceeded';
            result.value := jsonb_build_object('most', rules.most_unended);
        END IF;
        IF result.outcome <> 'ok' THEN
            RETURN result;
        END IF;
        INSERT INTO batches (user_id, key_id, endpoint, completion_window, metadata, input_file_id, input_object_id,
                             output_expires_seconds, created_at, expires_at, next_at)
        SELECT p_user_id, p_key_id, a->>'endpoint', w.name, nullif(a->'metadata', 'null'), f.file_id, f.object_id,
               (a->>'output_expires_seconds')::integer, at, at + w.length, at
        FROM completion_windows() AS w WHERE w.name = a->>'completion_window'
        RETURNING * INTO STRICT b;
        PERFORM batch_audit(p_actor, 'batch.created', b, p_key_id, jsonb_build_object(
            'endpoint', b.endpoint, 'completion_window', b.completion_window, 'input_file_id', b.input_file_id));
    WHEN 'list' THEN
        result.value := (
            SELECT coalesce(jsonb_agg(batch_json(l) ORDER BY l.batch_id DESC), '[]')
            FROM (SELECT * FROM batches o
                  WHERE o.user_id = p_user_id AND (a->>'after' IS NULL OR o.batch_id < (a->>'after')::uuid)
                  ORDER BY o.batch_id DESC LIMIT (a->>'limit')::integer) AS l);
        RETURN result;
    WHEN 'show', 'cancel' THEN
        SELECT * INTO b FROM batches o
        WHERE o.batch_id = (a->>'batch_id')::uuid AND o.user_id = p_user_id;
        IF NOT FOUND THEN
            result.outcome := 'batch_not_found';
            RETURN result;
        END IF;
        IF p_act = 'cancel' THEN
            SELECT * INTO b FROM batches o WHERE o.batch_id = b.batch_id FOR NO KEY UPDATE;
            IF b.status IN ('validating', 'in_progress') THEN
                b := batch_stop(b, CASE p_actor WHEN 'admin' THEN 'operator' ELSE 'user' END, p_actor, p_key_id, at);
            ELSIF b.status NOT IN ('cancelling', 'cancelled') THEN
                result.outcome := 'batch_finished';
                result.value := jsonb_build_object('status', b.status);
                RETURN result;
            END IF;
        END IF;
    END CASE;
    result.value := batch_json(b);
    RETURN result;
END $$;
COMMENT ON FUNCTION batch_act(text, text, uuid, text, jsonb) IS
    'p_act: create, list, show, cancel. Returns ok with the batch, or a list; or file_not_found, batch_file_unfit, '
    'batch_file_too_large, batches_exceeded, batch_not_found, batch_finished.';

-- Nothing more is submitted; what waits is cancelled by the next one who works on it.
CREATE OR REPLACE FUNCTION batch_stop(b batches, p_reason text, p_actor text, p_key_id uuid, p_at timestamptz)
    RETURNS batches
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE batches o SET
        status = 'cancelling', cancelling_at = p_at, cancel_reason = p_reason, next_at = p_at, waits_for = NULL
    WHERE o.batch_id = b.batch_id RETURNING * INTO b;
    PERFORM batch_audit(p_actor, 'batch.cancel_requested', b, p_key_id,
                        jsonb_build_object('reason', b.cancel_reason));
    RETURN b;
END $$;

-- What the routes under /v1/batches do in the database.
CREATE OR REPLACE FUNCTION batch_manage(p_key_hash bytea, p_act text, p_arguments jsonb) RETURNS batch_answer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    caller record := key_check(p_key_hash, CASE WHEN p_act IN ('show', 'list') THEN 'read' ELSE 'submit' END);
    result batch_answer;
BEGIN
    IF caller.outcome <> 'ok' THEN
        result.outcome := caller.outcome;
        RETURN result;
    END IF;
    result := batch_act(caller.user_id, 'openai', caller.key_id, p_act, p_arguments);
    IF caller.is_stale THEN
        PERFORM key_touch(caller.key_id);
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION batch_manage(bytea, text, jsonb) IS
    'See batch_act; or a refusal of key_check. What only reads needs the scope read, all else submit.';

-- A failed request is redriven. If it is a line of a batch whose files are not being written yet, it counts there
-- again, and the batch is returned; NULL: it is no matter of a batch. The caller holds the user lock.
CREATE OR REPLACE FUNCTION batch_reopen(p_request_id uuid) RETURNS uuid
    LANGUAGE sql AS $$
    UPDATE batches b SET failed = b.failed - 1
    FROM batch_lines l
    WHERE l.request_id = p_request_id AND b.batch_id = l.batch_id AND b.finalizing_at IS NULL AND b.ended_at IS NULL
    RETURNING b.batch_id;
$$;

-- Ends ----------------------------------------------------------------------------------------------------------------

-- Counts those of the requests that have ended which are lines of batches, in the commit that ends them. Returns the
-- batches that are to be worked on now: few enough of their requests are unfinished. The caller holds the user locks.
CREATE OR REPLACE FUNCTION batches_note(p_ended settlement[], p_at timestamptz) RETURNS uuid[]
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    due uuid[];
BEGIN
    WITH counted AS (
        SELECT s.batch_id, count(*) FILTER (WHERE s.outcome = 'completed') AS completed,
               count(*) FILTER (WHERE s.outcome <> 'completed') AS failed
        FROM unnest(p_ended) AS s WHERE s.batch_id IS NOT NULL
        GROUP BY s.batch_id
    ), locked AS (
        -- In the order in which everybody locks them.
        SELECT b.batch_id FROM batches b WHERE b.batch_id IN (SELECT c.batch_id FROM counted c)
        ORDER BY b.batch_id FOR NO KEY UPDATE
    ), noted AS (
        UPDATE batches b SET
            completed = b.completed + c.completed, failed = b.failed + c.failed,
            next_at = CASE WHEN b.fed - b.completed - b.failed - c.completed - c.failed <= b.refill_at
                           THEN least(b.next_at, p_at) ELSE b.next_at END,
            -- Said once: the next one who works on it sets it again.
            refill_at = CASE WHEN b.fed - b.completed - b.failed - c.completed - c.failed <= b.refill_at
                             THEN -1 ELSE b.refill_at END
        FROM counted c JOIN locked l ON l.batch_id = c.batch_id
        WHERE b.batch_id = c.batch_id
        RETURNING b.batch_id, old.refill_at >= 0 AND b.refill_at < 0 AS is_due
    )
    SELECT array_agg(n.batch_id) FILTER (WHERE n.is_due) INTO due FROM noted n;
    RETURN coalesce(due, '{}');
END $$;
