-- What operators do to requests: find them, cancel them, and queue failed ones again.

CREATE OR REPLACE FUNCTION request_list(
    of_user text, of_status text, of_error text, start_at timestamptz, end_at timestamptz, before uuid, at_most integer)
    RETURNS TABLE (
        request_id uuid, user_id text, model_id text, status text, attempts smallint, error_code text, error_message text,
        created_at timestamptz, started_at timestamptz, completed_at timestamptz,
        prompt_tokens integer, completion_tokens integer, waits_for text, waits_until timestamptz, last_error text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT r.request_id, r.user_id::text, r.model_id::text, r.status::text, r.attempts, r.error_code::text, r.error_message,
               r.created_at, r.started_at, r.completed_at, r.prompt_tokens, r.completion_tokens,
               w.waits_for, w.until, i.last_error::text
        FROM requests r
        LEFT JOIN inflight i ON i.request_id = r.request_id
        LEFT JOIN LATERAL request_waits(i) AS w ON i.request_id IS NOT NULL
        WHERE (of_user IS NULL OR r.user_id = of_user)
          AND (of_status IS NULL OR r.status = of_status)
          AND (of_error IS NULL OR r.error_code = of_error)
          AND (start_at IS NULL OR r.request_id >= uuidv7_floor(start_at))
          AND (end_at IS NULL OR r.request_id < uuidv7_floor(end_at))
          AND (before IS NULL OR r.request_id < before)
        ORDER BY r.request_id DESC LIMIT at_most;
END $$;
COMMENT ON FUNCTION request_list IS
    'Requests accepted from start_at up to, not including, end_at, newest first, older than before; not those archived.';

-- One failed request back into the queue, with new attempts and a new lifetime. Its settlement is undone in the books, so
-- that they will hold what the new one brings; what a failed attempt had used is audited as waste. The caller holds the gate.
CREATE OR REPLACE FUNCTION request_reopen(id uuid, ttl interval, max_attempts integer, dry_run boolean) RETURNS text
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    r  requests;
    at timestamptz := clock_now();
BEGIN
    SELECT * INTO r FROM requests q WHERE q.request_id = id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN CASE WHEN EXISTS (SELECT FROM requests_archive a WHERE a.request_id = id)
                    THEN 'request_archived' ELSE 'request_not_found' END;
    ELSIF r.status <> 'failed' THEN
        RETURN 'request_not_failed';
    ELSIF NOT EXISTS (SELECT FROM users u WHERE u.user_id = r.user_id AND u.is_active) THEN
        RETURN 'user_inactive';
    ELSIF NOT EXISTS (SELECT FROM models m WHERE m.model_id = r.model_id AND m.is_active) THEN
        RETURN 'model_unknown';
    ELSIF EXISTS (SELECT FROM quotas q
                  WHERE q.user_id = r.user_id AND r.created_at >= q.period_start AND r.created_at < q.reset_at
                    AND q.tokens_used - coalesce(r.total_tokens, 0) + q.tokens_reserved + r.reserved_tokens > q.max_tokens) THEN
        RETURN 'quota_exceeded';
    ELSIF dry_run THEN
        RETURN 'found';
    END IF;
    UPDATE quotas q SET
        tokens_used = q.tokens_used - coalesce(r.total_tokens, 0), tokens_reserved = q.tokens_reserved + r.reserved_tokens
    WHERE q.user_id = r.user_id AND r.created_at >= q.period_start AND r.created_at < q.reset_at;
    UPDATE requests q SET
        status = 'queued', attempts = q.attempts + 1, updated_at = at, started_at = NULL, completed_at = NULL, processing_time_ms = NULL,
        prompt_tokens = NULL, completion_tokens = NULL, total_tokens = NULL, error_code = NULL, error_message = NULL
    WHERE q.request_id = id;
    -- The fence goes on, past where it was: an answer of before answers nothing now.
    INSERT INTO inflight (request_id, user_id, attempt, max_attempts, expires_at)
    VALUES (id, r.user_id, r.attempts + 1, request_reopen.max_attempts, at + ttl);
    INSERT INTO audit_log (actor, action, user_id, request_id, before, after, invocation)
    VALUES ('admin', 'request.redriven', r.user_id, id,
            jsonb_strip_nulls(jsonb_build_object(
                'status', r.status, 'attempt', r.attempts, 'error_code', r.error_code, 'prompt_tokens', r.prompt_tokens,
                'completion_tokens', r.completion_tokens, 'processing_time_ms', r.processing_time_ms)),
            jsonb_build_object('status', 'queued', 'wasted_tokens', coalesce(r.total_tokens, 0)),
            nullif(current_setting('sluice.invocation', true), '')::uuid);
    RETURN 'redriven';
END $$;
COMMENT ON FUNCTION request_reopen IS
    'redriven (found, where it is only asked), or why not: request_not_found, request_archived, request_not_failed, '
    'user_inactive, model_unknown, quota_exceeded.';

CREATE OR REPLACE FUNCTION request_refused(code text, status text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'refused: % %', code, status USING ERRCODE = 'SL409', CONSTRAINT = code;
END $$;

CREATE OR REPLACE FUNCTION act_request_cancel(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    id    uuid := (a->>'request_id')::uuid;
    owner text := (SELECT r.user_id FROM requests_all r WHERE r.request_id = id);
    done  record;
BEGIN
    IF owner IS NULL THEN
        PERFORM request_refused('request_not_found');
    END IF;
    PERFORM user_lock(owner);
    SELECT * INTO done FROM request_end_early(id, 'admin');
    IF done.outcome <> 'ok' THEN
        PERFORM request_refused(done.outcome, done.status);
    END IF;
    RETURN jsonb_build_object('request_id', id, 'user_id', owner, 'status', done.status);
END $$;

-- One request, or a page of all that failed for a reason in a period; the sweep sends them. Those that failed are found by
-- their audit rows: they say when.
CREATE OR REPLACE FUNCTION act_request_redrive(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    low     uuid := greatest(uuidv7_floor((a->>'start')::timestamptz), (a->>'after')::uuid);
    high    uuid := uuidv7_floor((a->>'end')::timestamptz);
    found   bigint;
    last    text;
    ids     uuid[];
    owners  text[];
    done    jsonb;
BEGIN
    IF a->>'request_id' IS NOT NULL THEN
        ids := ARRAY[(a->>'request_id')::uuid];
    ELSE
        SELECT array_agg(f.request_id), max(f.audit_id::text), count(*) INTO ids, last, found
        FROM (SELECT l.request_id, l.audit_id FROM audit_log l
              WHERE l.audit_id > low AND l.audit_id < high AND l.action = 'request.failed'
                AND l.after->>'error_code' = a->>'error_code'
                AND (a->>'user_id' IS NULL OR l.user_id = a->>'user_id')
              ORDER BY l.audit_id LIMIT (a->>'limit')::integer) AS f;
        -- Redriven since, or failed for another reason after that.
        ids := ARRAY(SELECT r.request_id FROM requests_all r
                     WHERE r.request_id = ANY (ids) AND r.status = 'failed' AND r.error_code = a->>'error_code'
                     ORDER BY r.request_id);
    END IF;

    owners := ARRAY(SELECT DISTINCT r.user_id FROM requests_all r WHERE r.request_id = ANY (ids));
    PERFORM FROM quota_plans p WHERE p.user_id = ANY (owners) ORDER BY p.user_id FOR NO KEY UPDATE;
    SELECT coalesce(jsonb_agg(jsonb_build_object('request_id', e.id, 'outcome', e.outcome)), '[]') INTO done
    FROM (SELECT t.id, request_reopen(t.id, make_interval(secs => (a->>'ttl_seconds')::integer),
                                      (a->>'max_attempts')::integer, coalesce((a->>'dry_run')::boolean, false)) AS outcome
          FROM unnest(ids) WITH ORDINALITY AS t (id, n) ORDER BY t.n) AS e;
    IF a->>'request_id' IS NOT NULL AND done->0->>'outcome' NOT IN ('redriven', 'found') THEN
        PERFORM request_refused(done->0->>'outcome');
    END IF;
    RETURN jsonb_build_object(
        'redriven', (SELECT count(*) FROM jsonb_array_elements(done) AS e WHERE e->>'outcome' = 'redriven'),
        'requests', done,
        'next_cursor', CASE WHEN found = (a->>'limit')::integer THEN last END);
END $$;
