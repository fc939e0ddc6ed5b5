-- Redriving: failed requests are queued again.

-- Puts one failed request back into the queue, with new attempts and a new lifetime. Its settlement is undone in the
-- ledger, where the new settlement takes its place; tokens that the failed attempt used are audited as wasted. The
-- caller holds the user lock.
CREATE OR REPLACE FUNCTION request_redrive(p_request_id uuid, p_ttl interval, p_max_attempts integer, p_dry_run boolean)
    RETURNS text
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    r  requests;
    at timestamptz := clock_now();
BEGIN
    SELECT * INTO r FROM requests q WHERE q.request_id = p_request_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN CASE WHEN EXISTS (SELECT FROM requests_archive a WHERE a.request_id = p_request_id)
                    THEN 'request_archived' ELSE 'request_not_found' END;
    ELSIF r.status <> 'failed' THEN
        RETURN 'request_not_failed';
    ELSIF (SELECT a.erased_at IS NOT NULL FROM asked_find(p_request_id) AS a) THEN
        RETURN 'request_erased';
    ELSIF NOT EXISTS (SELECT FROM users u WHERE u.user_id = r.user_id AND u.is_active) THEN
        RETURN 'user_inactive';
    ELSIF NOT EXISTS (SELECT FROM models m WHERE m.model_id = r.model_id AND m.is_active) THEN
        RETURN 'model_unknown';
    ELSIF EXISTS (SELECT FROM quotas q
                  WHERE q.user_id = r.user_id AND r.created_at >= q.period_start AND r.created_at < q.reset_at
                    AND q.tokens_used - coalesce(r.total_tokens, 0) + q.tokens_reserved + r.reserved_tokens
                        > q.max_tokens) THEN
        RETURN 'quota_exceeded';
    ELSIF budget_lacks_room(p_request_id) THEN
        RETURN 'budget_exceeded';
    ELSIF p_dry_run THEN
        RETURN 'found';
    END IF;
    PERFORM budget_settle(ARRAY[p_request_id], -1);
    UPDATE quotas q SET
        tokens_used = q.tokens_used - coalesce(r.total_tokens, 0),
        tokens_reserved = q.tokens_reserved + r.reserved_tokens
    WHERE q.user_id = r.user_id AND r.created_at >= q.period_start AND r.created_at < q.reset_at;
    -- The attempt number grows, so that an answer from an earlier worker is rejected.
    UPDATE requests q SET
        status = 'queued', attempts = q.attempts + 1, updated_at = at,
        started_at = NULL, completed_at = NULL, processing_time_ms = NULL,
        prompt_tokens = NULL, completion_tokens = NULL, total_tokens = NULL, cached_tokens = NULL,
        reasoning_tokens = NULL, charges = NULL, error_code = NULL, error_message = NULL
    WHERE q.request_id = p_request_id;
    UPDATE attempts a SET is_charged = false WHERE a.request_id = p_request_id AND a.is_charged;
    INSERT INTO inflight
        (request_id, user_id, attempt, max_attempts, expires_at, has_webhook, batch_id, priority, promote_at)
    SELECT p_request_id, r.user_id, r.attempts + 1, p_max_attempts, at + p_ttl,
           (SELECT CASE WHEN x.handling ? 'webhook' THEN true END FROM extras_find(p_request_id) AS x),
           batch_reopen(p_request_id), w.priority, w.promote_at
    FROM window_waiting(r.completion_window, r.due_at, at) AS w;
    PERFORM audit_write('admin', ARRAY[ROW(
        'request.redriven', r.user_id, NULL, p_request_id,
        jsonb_strip_nulls(jsonb_build_object(
            'status', r.status, 'attempt', r.attempts, 'error_code', r.error_code, 'prompt_tokens', r.prompt_tokens,
            'completion_tokens', r.completion_tokens, 'cached_tokens', r.cached_tokens,
            'reasoning_tokens', r.reasoning_tokens, 'processing_time_ms', r.processing_time_ms,
            'charges', r.charges, 'window_kept', window_kept(r.status, r.completed_at, r.due_at))),
        jsonb_build_object('status', 'queued', 'wasted_tokens', coalesce(r.total_tokens, 0)))::audit_entry]);
    RETURN 'redriven';
END $$;
COMMENT ON FUNCTION request_redrive(uuid, interval, integer, boolean) IS
    'redriven (in a dry run: found), or the reason why not: request_not_found, request_archived, request_not_failed, '
    'request_erased, user_inactive, model_unknown, quota_exceeded, budget_exceeded.';
