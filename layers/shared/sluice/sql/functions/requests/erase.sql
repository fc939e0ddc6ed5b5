-- Erasing: what a request asked and was answered goes, and what it used and cost stays.

CREATE OR REPLACE FUNCTION request_erase(p_key_hash bytea, p_request_id uuid) RETURNS cancellation
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    caller record;
    -- What is unfinished is cancelled first, so that no answer comes later.
    result cancellation := request_cancel(p_key_hash, p_request_id);
BEGIN
    IF result.outcome NOT IN ('ok', 'request_finished') THEN
        RETURN result;
    ELSIF (SELECT a.erased_at IS NOT NULL FROM asked_find(p_request_id) AS a) THEN
        result.outcome := 'request_not_found';
        RETURN result;
    END IF;
    result.outcome := 'ok';
    -- Which API it came by stays: if it is still to be cancelled, its event names it as that API does.
    UPDATE prompts p SET input = '{"messages": []}', surface = p.surface - 'echo', erased_at = clock_now(),
                         parameters = p.parameters - 'stop'
    WHERE p.request_id = p_request_id;
    -- A fingerprint would tell whether a text that one knows was in it.
    UPDATE results a SET output = '{"items": []}', fingerprint = NULL
    WHERE a.result_id = (SELECT r.result_id FROM requests_all r WHERE r.request_id = p_request_id);
    UPDATE binary_results a SET content = ''
    WHERE a.result_id = (SELECT r.result_id FROM requests_all r WHERE r.request_id = p_request_id);
    UPDATE objects o SET deleted_at = clock_now()
    WHERE o.request_id = p_request_id AND o.object_class = 'inputs' AND o.deleted_at IS NULL;
    UPDATE objects o SET deleted_at = clock_now()
    FROM binary_results a
    WHERE a.result_id = (SELECT r.result_id FROM requests_all r WHERE r.request_id = p_request_id)
      AND o.object_id = a.object_id AND o.deleted_at IS NULL;
    PERFORM cache_forget(result.user_id, NULL, r.result_id) FROM requests_all r WHERE r.request_id = p_request_id;
    DELETE FROM idempotency_keys k WHERE k.user_id = result.user_id AND k.request_id = p_request_id;
    caller := key_check(p_key_hash, 'submit');
    PERFORM audit_write('submit', ARRAY[ROW(
        'request.erased', result.user_id, caller.key_id, p_request_id, NULL, NULL)::audit_entry]);
    RETURN result;
END $$;
COMMENT ON FUNCTION request_erase(bytea, uuid) IS
    'Erases the content of a request of the caller, and cancels it if it is unfinished: ok, request_not_found (also if '
    'it was erased already), or a refusal of key_check. The metadata stays: usage by tag is counted from it.';
