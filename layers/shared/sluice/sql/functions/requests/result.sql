-- The answer of a request by itself, with its bytes where it is a file.

CALL define_type('stored_result', $$outcome text, request_id uuid, output jsonb, content bytea, stored jsonb$$);

CREATE OR REPLACE FUNCTION result_read(p_key_hash bytea, p_request_id uuid) RETURNS stored_result
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    caller record := key_use(p_key_hash, 'read');
    r      requests;
    file   record;
    result stored_result;
BEGIN
    result.outcome := caller.outcome;
    IF caller.outcome <> 'ok' THEN
        RETURN result;
    END IF;
    SELECT * INTO r FROM requests q WHERE q.request_id = p_request_id;
    IF NOT FOUND THEN
        SELECT * INTO r FROM requests_archive q WHERE q.request_id = p_request_id;
    END IF;
    -- Another user's request looks like one that does not exist.
    IF r.user_id IS DISTINCT FROM caller.user_id THEN
        result.outcome := 'request_not_found';
    ELSIF r.completed_at IS NULL THEN
        result.outcome := 'result_not_ready';
    ELSIF r.result_id IS NULL OR (SELECT a.erased_at IS NOT NULL FROM asked_find(p_request_id) AS a) THEN
        result.outcome := 'result_not_found';
    ELSE
        result.request_id := r.request_id;
        result.output := result_find(r.result_id);
        IF result.output->'items' = '[]' THEN
            -- It was that of an equal request, which was erased.
            result.outcome := 'result_not_found';
        ELSE
            SELECT * INTO file FROM content_find(r.result_id);
            result.content := file.content;
            result.stored := object_json(file.object_id);
            -- It was erased a moment ago: each statement here sees what was committed before it.
            IF octet_length(file.content) = 0 AND result.stored IS NULL THEN
                result.outcome := 'result_not_found';
            END IF;
        END IF;
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION result_read(bytea, uuid) IS
    'The answer of a request of the caller: ok; request_not_found; result_not_ready (it is unfinished), '
    'result_not_found (it ended without an answer, or was erased); or a refusal of key_check. content: of a file; NULL '
    'of any other answer. stored: the object that holds the answer; then content is empty, and output describes it.';
