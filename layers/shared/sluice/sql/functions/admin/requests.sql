-- Administrative operations on requests: list them, cancel them, redrive failed ones.

CALL define_type('request_view', $$
    request_id uuid, user_id text, model_id text, status text, attempts smallint, error_code text, error_message text,
    created_at timestamptz, started_at timestamptz, completed_at timestamptz, prompt_tokens integer,
    completion_tokens integer, waits_for text, waits_until timestamptz, last_error text, finish_reason text
$$);

CREATE OR REPLACE FUNCTION request_list(
    p_user_id text, p_status text, p_error_code text, p_start timestamptz, p_end timestamptz, p_before uuid,
    p_limit integer, p_finish_reason text DEFAULT NULL
)
    RETURNS SETOF request_view
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
        SELECT r.request_id, r.user_id::text, r.model_id::text, r.status::text, r.attempts, r.error_code::text,
               r.error_message, r.created_at, r.started_at, r.completed_at, r.prompt_tokens, r.completion_tokens,
               w.waits_for, w.until, i.last_error::text, r.finish_reason::text
        FROM requests r
        LEFT JOIN inflight i ON i.request_id = r.request_id
        LEFT JOIN LATERAL request_waits(i) AS w ON i.request_id IS NOT NULL
        WHERE (p_user_id IS NULL OR r.user_id = p_user_id)
          AND (p_status IS NULL OR r.status = p_status)
          AND (p_error_code IS NULL OR r.error_code = p_error_code)
          AND (p_finish_reason IS NULL OR r.finish_reason = p_finish_reason)
          AND (p_start IS NULL OR r.request_id >= uuidv7_floor(p_start))
          AND (p_end IS NULL OR r.request_id < uuidv7_floor(p_end))
          AND (p_before IS NULL OR r.request_id < p_before)
        ORDER BY r.request_id DESC LIMIT p_limit;
END $$;
COMMENT ON FUNCTION request_list(text, text, text, timestamptz, timestamptz, uuid, integer, text) IS
    'Requests accepted from p_start up to but not including p_end, and older than p_before; newest first. Archived '
    'ones are left out. p_finish_reason has a default, because the previous version of the code does not give it.';

CREATE OR REPLACE FUNCTION admin_request_get(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    id uuid := (a->>'request_id')::uuid;
    i  inflight;
    r  requests;
BEGIN
    -- Read first, so that a request that ends meanwhile is shown as ended.
    SELECT * INTO i FROM inflight f WHERE f.request_id = id;
    SELECT * INTO r FROM requests_all q WHERE q.request_id = id;
    IF NOT FOUND THEN
        PERFORM admin_refuse('request_not_found');
    END IF;
    RETURN to_jsonb(r) || jsonb_build_object(
        'waits_for', w.waits_for, 'waits_until', w.until, 'failed_attempts', i.failed_attempts,
        'max_attempts', i.max_attempts, 'last_error', i.last_error, 'expires_at', i.expires_at,
        'empty_reason', (SELECT s.output->>'empty_reason' FROM results s WHERE s.result_id = r.result_id),
        'api', coalesce(p.surface->>'api', 'generate'), 'erased_at', p.erased_at,
        'fallbacks', coalesce(p.handling->'fallbacks', '[]'), 'calls', coalesce(t.calls, '[]'),
        'answered_by', answered_by(r.status, r.model_id, t.calls))
    FROM (SELECT) AS one
    LEFT JOIN prompts p ON p.request_id = id
    CROSS JOIN LATERAL (SELECT attempts_json(id, r.user_id, r.completion_window) AS calls) AS t
    LEFT JOIN LATERAL request_waits(i) AS w ON i.request_id IS NOT NULL AND r.completed_at IS NULL;
END $$;

CREATE OR REPLACE FUNCTION admin_request_cancel(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    id    uuid := (a->>'request_id')::uuid;
    owner text := (SELECT r.user_id FROM requests_all r WHERE r.request_id = id);
    done  record;
BEGIN
    IF owner IS NULL THEN
        PERFORM admin_refuse('request_not_found');
    END IF;
    PERFORM admin_user_lock(owner);
    done := cancellation_apply(id, 'admin');
    IF done.outcome <> 'ok' THEN
        PERFORM admin_refuse(done.outcome);
    END IF;
    RETURN jsonb_build_object('request_id', id, 'user_id', owner, 'status', done.status);
END $$;

-- Redrives one request, or a page of those that failed for a given reason in a period; the recovery task sends their
-- messages. Requests that failed are found by their audit rows, which say when that was.
CREATE OR REPLACE FUNCTION admin_request_redrive(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    low     uuid := greatest(uuidv7_floor((a->>'start')::timestamptz), (a->>'after')::uuid);
    high    uuid := uuidv7_floor((a->>'end')::timestamptz);
    found   bigint;
    last    text;
    ids     uuid[];
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
        -- Leave out those that were redriven since then, and those that then failed for another reason.
        ids := ARRAY(SELECT r.request_id FROM requests_all r
                     WHERE r.request_id = ANY (ids) AND r.status = 'failed' AND r.error_code = a->>'error_code'
                     ORDER BY r.request_id);
    END IF;

    PERFORM users_lock(ARRAY(SELECT DISTINCT r.user_id FROM requests_all r WHERE r.request_id = ANY (ids)));
    SELECT coalesce(jsonb_agg(jsonb_build_object('request_id', e.id, 'outcome', e.outcome)), '[]') INTO done
    FROM (SELECT t.id, request_redrive(t.id, make_interval(secs => (a->>'ttl_seconds')::integer),
                                       (a->>'max_attempts')::integer,
                                       coalesce((a->>'dry_run')::boolean, false)) AS outcome
          FROM unnest(ids) WITH ORDINALITY AS t (id, n) ORDER BY t.n) AS e;
    IF a->>'request_id' IS NOT NULL AND done->0->>'outcome' NOT IN ('redriven', 'found') THEN
        PERFORM admin_refuse(done->0->>'outcome');
    END IF;
    RETURN jsonb_build_object(
        'redriven', (SELECT count(*) FROM jsonb_array_elements(done) AS e WHERE e->>'outcome' = 'redriven'),
        'requests', done,
        'next_cursor', CASE WHEN found = (a->>'limit')::integer THEN last END);
END $$;
