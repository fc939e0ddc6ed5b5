-- What a client reads, with one call for each. Results and prompts are looked up in separate statements with the id in
-- a variable, so that each look-up is planned for its id and opens one partition.

-- What an unfinished request waits for, and until when if that is known.
CREATE OR REPLACE FUNCTION request_waits(i inflight, OUT waits_for text, OUT until timestamptz)
    LANGUAGE sql STABLE AS $$
    SELECT CASE
               WHEN i.status = 'processing' AND i.lease_until < clock_now() THEN 'recovery'
               WHEN i.status = 'processing' THEN 'model'
               WHEN i.not_before > clock_now() AND i.failed_attempts > 0 THEN 'retry'
               WHEN i.not_before > clock_now() THEN 'not_before'
               WHEN i.dispatched_at IS NOT NULL THEN 'worker'
               WHEN (SELECT count(*) FROM inflight d WHERE d.user_id = i.user_id AND d.dispatched_at IS NOT NULL)
                    >= (SELECT p.dispatch_window FROM quota_plans p WHERE p.user_id = i.user_id) THEN 'window'
               ELSE 'dispatch' END,
           CASE WHEN i.status = 'queued' AND i.not_before > clock_now() THEN i.not_before END;
$$;
COMMENT ON FUNCTION request_waits(inflight) IS
    'model: a worker has it; recovery: that worker was lost; retry: the last attempt failed; not_before: the client '
    'asked for it; worker: its message is in the queue; window: other requests of the user come first; dispatch: the '
    'recovery task will send its message.';

CALL define_type('queue_position', $$position bigint, ended bigint, seconds double precision$$);

-- position: the queue position, a rank among the user's requests that wait to be started; 1 is the next.
-- ended, seconds: how many of the user's requests ended in that many seconds. seconds is the time for which the user
-- has had unfinished requests without a pause (ten minutes at most). Estimated wait = position * seconds / ended.
CREATE OR REPLACE FUNCTION request_position(i inflight) RETURNS queue_position
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    since  timestamptz;
    result queue_position;
BEGIN
    SELECT 1 + count(*) INTO result.position FROM inflight o
    WHERE o.user_id = i.user_id AND o.status = 'queued' AND o.request_id <> i.request_id
      AND coalesce(o.not_before, '-infinity') <= clock_now()
      AND CASE WHEN i.dispatched_at IS NOT NULL THEN o.dispatched_at < i.dispatched_at
               ELSE o.dispatched_at IS NOT NULL OR i.request_id > o.request_id END;
    SELECT greatest(min(coalesce(o.not_before, r.created_at)), clock_now() - interval '10 minutes') INTO since
    FROM inflight o JOIN requests r ON r.request_id = o.request_id
    WHERE o.user_id = i.user_id AND coalesce(o.not_before, '-infinity') <= clock_now();
    SELECT count(*) INTO result.ended FROM (
        SELECT FROM audit_log a
        WHERE a.user_id = i.user_id AND a.audit_id >= uuidv7_floor(since)
          AND a.action IN ('request.completed', 'request.failed')
        LIMIT 1000) AS counted;
    result.seconds := extract(epoch FROM clock_now() - since);
    RETURN result;
END $$;

CREATE OR REPLACE FUNCTION request_queue(i inflight) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'waits_for', w.waits_for, 'until', w.until, 'failed_attempts', i.failed_attempts,
        'max_attempts', i.max_attempts, 'last_error', i.last_error, 'expires_at', i.expires_at,
        'cancel_requested_at', i.cancel_requested_at, 'position', p.position, 'ended', p.ended, 'seconds', p.seconds)
    FROM request_waits(i) AS w
    LEFT JOIN LATERAL request_position(i) AS p ON w.waits_for IN ('worker', 'window', 'dispatch');
$$;

CALL define_type('request_state', $$
    outcome text, request_id uuid, model_id text, status text, output jsonb, error_code text, error_message text,
    estimated_tokens integer, reserved_tokens integer, prompt_tokens integer, completion_tokens integer,
    total_tokens integer, created_at timestamptz, started_at timestamptz, completed_at timestamptz,
    processing_time_ms integer, metadata jsonb, cost jsonb, queue jsonb, finish_reason text
$$);

CREATE OR REPLACE FUNCTION request_show(p_key_hash bytea, p_request_id uuid) RETURNS request_state
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    caller record := key_use(p_key_hash, 'read');
    i      inflight;
    r      requests;
    result request_state;
BEGIN
    result.outcome := caller.outcome;
    IF caller.outcome <> 'ok' THEN
        RETURN result;
    END IF;
    -- Read first, so that a request that ends meanwhile is shown as ended and not as waiting for nothing.
    SELECT * INTO i FROM inflight f WHERE f.request_id = p_request_id;
    SELECT * INTO r FROM requests q WHERE q.request_id = p_request_id;
    IF NOT FOUND THEN
        SELECT * INTO r FROM requests_archive q WHERE q.request_id = p_request_id;
    END IF;
    -- Another user's request looks like one that does not exist.
    IF r.user_id IS DISTINCT FROM caller.user_id THEN
        result.outcome := 'request_not_found';
        RETURN result;
    END IF;
    result.request_id := r.request_id;
    result.model_id := r.model_id;
    result.status := r.status;
    result.error_code := r.error_code;
    result.error_message := r.error_message;
    result.estimated_tokens := r.estimated_tokens;
    result.reserved_tokens := r.reserved_tokens;
    result.prompt_tokens := r.prompt_tokens;
    result.completion_tokens := r.completion_tokens;
    result.total_tokens := r.total_tokens;
    result.created_at := r.created_at;
    result.started_at := r.started_at;
    result.completed_at := r.completed_at;
    result.processing_time_ms := r.processing_time_ms;
    result.finish_reason := r.finish_reason;
    SELECT a.output INTO result.output FROM results a WHERE a.result_id = r.result_id;
    SELECT p.metadata INTO result.metadata FROM prompts p WHERE p.request_id = p_request_id;
    result.cost := request_cost(r);
    IF r.completed_at IS NULL AND i.request_id IS NOT NULL THEN
        result.queue := request_queue(i);
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION request_show(bytea, uuid) IS
    'One request of the caller: ok, request_not_found, or a refusal of key_check. queue: see request_queue; NULL if '
    'the request has ended.';

CALL define_type('request_summary', $$
    outcome text, request_id uuid, prompt text, model_id text, status text, error_code text, error_message text,
    prompt_tokens integer, completion_tokens integer, total_tokens integer, created_at timestamptz,
    started_at timestamptz, completed_at timestamptz, processing_time_ms integer, finish_reason text
$$);

CREATE OR REPLACE FUNCTION request_history(p_key_hash bytea, p_before uuid, p_limit integer)
    RETURNS SETOF request_summary
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    caller  record := key_use(p_key_hash, 'read');
    refused request_summary;
    before  uuid := coalesce(p_before, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    ids     uuid[];
BEGIN
    IF caller.outcome <> 'ok' THEN
        refused.outcome := caller.outcome;
        RETURN NEXT refused;
        RETURN;
    END IF;
    ids := ARRAY(
        SELECT r.request_id FROM requests r
        WHERE r.user_id = caller.user_id AND r.request_id < before
        ORDER BY r.request_id DESC LIMIT p_limit);
    IF cardinality(ids) < p_limit THEN
        ids := ids || ARRAY(
            SELECT r.request_id FROM requests_archive r
            WHERE r.user_id = caller.user_id AND r.request_id < before
            ORDER BY r.request_id DESC LIMIT p_limit - cardinality(ids));
    END IF;
    RETURN QUERY
        SELECT 'ok', r.request_id, left(p.prompt, 1000), r.model_id::text, r.status::text,
               r.error_code::text, r.error_message, r.prompt_tokens, r.completion_tokens, r.total_tokens,
               r.created_at, r.started_at, r.completed_at, r.processing_time_ms, r.finish_reason::text
        FROM requests_all r
        LEFT JOIN prompts p ON p.request_id = r.request_id AND p.request_id = ANY (ids)
        WHERE r.request_id = ANY (ids)
        ORDER BY r.request_id DESC;
END $$;
COMMENT ON FUNCTION request_history(bytea, uuid, integer) IS
    'The user''s requests older than the given one, newest first, with the first 1,000 characters of their prompts: a '
    'page of whole prompts could be larger than a Lambda response may be.';

CALL define_type('model_offer', $$
    outcome text, model_id text, is_default boolean, max_tokens_default integer, max_tokens_limit integer
$$);

CREATE OR REPLACE FUNCTION model_offers(p_key_hash bytea) RETURNS SETOF model_offer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    caller  record := key_check(p_key_hash, 'read');
    refused model_offer;
BEGIN
    IF caller.outcome <> 'ok' THEN
        refused.outcome := caller.outcome;
        RETURN NEXT refused;
        RETURN;
    END IF;
    RETURN QUERY
        SELECT 'ok', m.model_id::text, m.is_default, m.max_tokens_default, m.max_tokens_limit
        FROM models m WHERE m.is_active ORDER BY m.model_id;
END $$;
COMMENT ON FUNCTION model_offers(bytea) IS 'The models that a client may name.';
