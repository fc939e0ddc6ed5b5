-- Ending batches: the answers are written to files, in the order of the lines, and the batch names the files.

CALL define_type('batch_result', $$
    line integer, custom_id text, error jsonb, outcome text, request_id uuid, model_id text, status text, output jsonb,
    error_code text, error_message text, prompt_tokens integer, completion_tokens integer, total_tokens integer,
    created_at timestamptz, started_at timestamptz, completed_at timestamptz, finish_reason text, metadata jsonb,
    input jsonb, parameters jsonb, surface jsonb, cached_tokens integer, reasoning_tokens integer, stored jsonb
$$);

-- Nothing of the batch is unfinished, and nothing more is submitted: its files are written now. Lines that were not
-- submitted have failed.
CREATE OR REPLACE FUNCTION batch_finalize(p_batch_id uuid, p_attempt integer) RETURNS batch_progress
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    b batches := batch_lock(p_batch_id, p_attempt);
BEGIN
    IF b.finalizing_at IS NULL AND b.fed = b.completed + b.failed
       AND (b.fed = b.total OR b.status = 'cancelling' OR b.expires_at <= clock_now())
       AND b.status IN ('in_progress', 'cancelling')
    THEN
        UPDATE batches o SET
            status = CASE o.status WHEN 'in_progress' THEN 'finalizing' ELSE o.status END,
            finalizing_at = clock_now(), failed = o.total - o.completed, fed = o.total, waits_for = NULL
        WHERE o.batch_id = b.batch_id RETURNING * INTO b;
    END IF;
    RETURN batch_progress_of(b, 'ok');
END $$;
COMMENT ON FUNCTION batch_finalize(uuid, integer) IS
    'Begins to write the files, where the batch is so far. Safe to repeat.';

-- What became of the lines after this one: as many as have answers of p_bytes in all, and at least one. With outcome
-- ok, the request; erased: its content is gone; refused: see error; expired, cancelled: it was not submitted.
-- stored: the object that holds the answer.
CREATE OR REPLACE FUNCTION batch_results(
    p_batch_id uuid, p_attempt integer, p_after integer, p_limit integer, p_bytes integer
)
    RETURNS SETOF batch_result
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    b     batches := batch_lock(p_batch_id, p_attempt);
    row   batch_result;
    bytes bigint := 0;
BEGIN
    FOR row IN
        SELECT l.line, l.custom_id, l.error,
               CASE WHEN l.error IS NOT NULL THEN 'refused'
                    WHEN l.request_id IS NULL AND b.cancelling_at IS NOT NULL THEN 'cancelled'
                    WHEN l.request_id IS NULL THEN 'expired'
                    WHEN a.erased_at IS NOT NULL THEN 'erased' ELSE 'ok' END,
               r.request_id, coalesce(answered_by(r.status, r.model_id, t.attempts), r.model_id), r.status, o.output,
               r.error_code, r.error_message, r.prompt_tokens, r.completion_tokens, r.total_tokens, r.created_at,
               r.started_at, r.completed_at, r.finish_reason, x.metadata, a.input, a.parameters, a.surface,
               r.cached_tokens, r.reasoning_tokens, object_json(c.object_id)
        FROM batch_lines l
        LEFT JOIN requests_all r ON r.request_id = l.request_id
        LEFT JOIN LATERAL asked_find(l.request_id) AS a ON true
        LEFT JOIN LATERAL extras_find(l.request_id) AS x ON true
        LEFT JOIN LATERAL (
            SELECT CASE WHEN r.charges IS NOT NULL
                        THEN attempts_json(r.request_id, r.user_id, r.completion_window) END AS attempts
        ) AS t ON true
        LEFT JOIN LATERAL (SELECT CASE WHEN r.result_id IS NOT NULL THEN result_find(r.result_id) END AS output) AS o
            ON true
        -- Of an answer in the bucket, the document has a file only.
        LEFT JOIN LATERAL content_find(CASE WHEN o.output #>> '{items,0,type}' = 'file' THEN r.result_id END) AS c
            ON true
        WHERE b.finalizing_at IS NOT NULL AND l.batch_id = b.batch_id AND l.line > p_after
        ORDER BY l.line LIMIT p_limit
    LOOP
        RETURN NEXT row;
        bytes := bytes + coalesce(octet_length(row.output::text), 0) + coalesce(octet_length(row.input::text), 0);
        EXIT WHEN bytes >= p_bytes;
    END LOOP;
END $$;

-- Ends a batch whose files were written. p_output, p_errors: what is in them and where, as of file_keep(); NULL: there
-- is none. p_usage: the tokens of the answers.
CREATE OR REPLACE FUNCTION batch_finish(
    p_batch_id uuid, p_attempt integer, p_completed integer, p_expired integer, p_usage jsonb, p_output jsonb,
    p_errors jsonb
)
    RETURNS batch_progress
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    at     constant timestamptz := clock_now();
    b      batches;
    output files;
    errors files;
BEGIN
    PERFORM user_lock((SELECT o.user_id FROM batches o WHERE o.batch_id = p_batch_id));
    b := batch_lock(p_batch_id, p_attempt);
    IF b.finalizing_at IS NOT NULL THEN
        IF p_output IS NOT NULL THEN
            output := file_keep(batch_file(b, 'output'), p_output, 'batches', NULL, at);
        END IF;
        IF p_errors IS NOT NULL THEN
            errors := file_keep(batch_file(b, 'errors'), p_errors, 'batches', NULL, at);
        END IF;
        UPDATE batches o SET
            -- What was erased since it was answered is not in the output file.
            completed = p_completed, failed = o.total - p_completed, usage = p_usage,
            output_file_id = output.file_id, error_file_id = errors.file_id
        WHERE o.batch_id = b.batch_id;
        b := batch_end(b.batch_id, CASE WHEN b.cancelling_at IS NOT NULL THEN 'cancelled'
                                        WHEN p_expired > 0 THEN 'expired' ELSE 'completed' END, at);
    END IF;
    RETURN batch_progress_of(b, 'ok');
END $$;
COMMENT ON FUNCTION batch_finish(uuid, integer, integer, integer, jsonb, jsonb, jsonb) IS
    'p_expired: lines that the window ended for. Its status is completed, expired, or cancelled.';

CREATE OR REPLACE FUNCTION batch_file(b batches, p_kind text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object(
        'user_id', b.user_id, 'purpose', 'batch_output', 'batch_id', b.batch_id,
        'filename', format('batch_%s_%s.jsonl', replace(b.batch_id::text, '-', ''), p_kind),
        'expires_seconds', b.output_expires_seconds);

-- What an end is called in the audit log, and in OpenAI's events.
CREATE OR REPLACE FUNCTION batch_event(p_status text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE p_status WHEN 'completed' THEN 'batch.completed' WHEN 'failed' THEN 'batch.failed'
                         WHEN 'expired' THEN 'batch.expired' WHEN 'cancelled' THEN 'batch.cancelled' END;

-- Every end of a batch: the state, the audit row, the events of webhooks, in one commit. What it read is free to go
-- where its file is gone.
CREATE OR REPLACE FUNCTION batch_end(p_batch_id uuid, p_status text, p_at timestamptz) RETURNS batches
    LANGUAGE plpgsql AS $$
DECLARE
    b batches;
BEGIN
    UPDATE batches o SET
        status = p_status, ended_at = p_at, next_at = NULL, leased_until = NULL, refill_at = -1, waits_for = NULL
    WHERE o.batch_id = p_batch_id RETURNING * INTO b;
    UPDATE objects o SET deleted_at = p_at
    FROM files f
    WHERE f.file_id = b.input_file_id AND f.deleted_at IS NOT NULL AND o.object_id = f.object_id
      AND o.deleted_at IS NULL
      AND NOT file_is_read(o.object_id);
    PERFORM batch_audit('batches', batch_event(p_status), b, NULL, batch_counts(b));
    INSERT INTO webhook_events
        (user_id, endpoint_id, batch_id, event_type, data_id, created_at, expires_at, max_attempts, next_attempt_at)
    SELECT b.user_id, w.endpoint_id, b.batch_id, batch_event(p_status),
           'batch_' || replace(b.batch_id::text, '-', ''), p_at, p_at + (webhook_rules()).lives, webhook_attempts(),
           p_at
    FROM webhook_endpoints w
    WHERE w.user_id = b.user_id AND w.url IS NOT NULL AND w.disabled_at IS NULL
      AND batch_event(p_status) = ANY (w.event_types);
    RETURN b;
END $$;

CREATE OR REPLACE FUNCTION batch_lines_expire(p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    deleted integer;
BEGIN
    DELETE FROM batch_lines l USING (
        SELECT e.batch_id, e.line FROM batch_lines e JOIN batches b ON b.batch_id = e.batch_id
        WHERE b.ended_at < clock_now() - (batch_rules()).kept LIMIT p_limit
    ) AS old
    WHERE l.batch_id = old.batch_id AND l.line = old.line;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
COMMENT ON FUNCTION batch_lines_expire(integer) IS
    'Deletes the lines of batches that ended long ago, so many at most; returns how many.';
