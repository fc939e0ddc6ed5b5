-- A request with all that was asked, for the APIs that show it.

CALL define_type('request_detail', $$
    outcome text, request_id uuid, model_id text, status text, output jsonb, error_code text, error_message text,
    prompt_tokens integer, completion_tokens integer, total_tokens integer, created_at timestamptz,
    started_at timestamptz, completed_at timestamptz, finish_reason text, metadata jsonb, input jsonb,
    parameters jsonb, surface jsonb, cached_tokens integer, reasoning_tokens integer
$$);

CREATE OR REPLACE FUNCTION request_detail(p_key_hash bytea, p_request_id uuid) RETURNS request_detail
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    s      request_state := request_show(p_key_hash, p_request_id);
    asked  record;
    result request_detail;
BEGIN
    SELECT * INTO asked FROM asked_find(s.request_id);
    result.outcome := CASE WHEN s.outcome = 'ok' AND asked.erased_at IS NOT NULL
                           THEN 'request_not_found' ELSE s.outcome END;
    IF result.outcome <> 'ok' THEN
        RETURN result;
    END IF;
    result.request_id := s.request_id;
    result.model_id := coalesce(s.answered_by, s.model_id);
    result.status := s.status;
    result.output := s.output;
    result.error_code := s.error_code;
    result.error_message := s.error_message;
    result.prompt_tokens := s.prompt_tokens;
    result.completion_tokens := s.completion_tokens;
    result.total_tokens := s.total_tokens;
    result.created_at := s.created_at;
    result.started_at := s.started_at;
    result.completed_at := s.completed_at;
    result.finish_reason := s.finish_reason;
    result.metadata := s.metadata;
    result.input := asked.input;
    result.parameters := asked.parameters;
    result.surface := asked.surface;
    result.cached_tokens := s.cached_tokens;
    result.reasoning_tokens := s.reasoning_tokens;
    RETURN result;
END $$;
COMMENT ON FUNCTION request_detail(bytea, uuid) IS
    'One request of the caller, with what was asked: ok, request_not_found (also if it was erased), or a refusal of '
    'key_check.';
