-- What a client reads, with one call for each.

-- What an unfinished request waits for, and until when if that is known.
CREATE OR REPLACE FUNCTION request_waits(i inflight, OUT waits_for text, OUT until timestamptz)
    LANGUAGE sql STABLE AS $$
    SELECT CASE
               WHEN b.until IS NOT NULL OR i.is_held AND i.not_before > clock_now() THEN 'breaker'
               WHEN i.status = 'processing' AND i.lease_until < clock_now() THEN 'recovery'
               WHEN i.status = 'processing' THEN 'model'
               WHEN i.not_before > clock_now() AND i.failed_attempts > 0 THEN 'retry'
               WHEN i.not_before > clock_now() THEN 'not_before'
               WHEN i.dispatched_at IS NOT NULL THEN 'worker'
               WHEN i.follows IS NOT NULL THEN 'equal_request'
               WHEN (SELECT count(*) FROM inflight d WHERE d.user_id = i.user_id AND d.dispatched_at IS NOT NULL)
                    >= (SELECT CASE i.priority WHEN 0 THEN p.dispatch_window ELSE waiting_window(p) END
                        FROM quota_plans p WHERE p.user_id = i.user_id) THEN 'window'
               WHEN i.priority > 0 AND waiting_room() <= 0 THEN 'others'
               ELSE 'dispatch' END,
           greatest(b.until, CASE WHEN i.status = 'queued' AND i.not_before > clock_now() THEN i.not_before END)
    FROM (SELECT CASE WHEN i.status = 'queued' AND EXISTS (SELECT FROM model_breakers m WHERE m.opened_at IS NOT NULL)
                      THEN breaker_until(i.request_id) END AS until) AS b;
$$;
COMMENT ON FUNCTION request_waits(inflight) IS
    'breaker: calls of its model fail, so it is called with probes only, and no fallback can answer; '
    'equal_request: an equal request of the user is asking, and its answer will be this one''s, too; '
    'model: a worker has it; recovery: that worker was lost; retry: the last attempt failed; not_before: the client '
    'asked for it; worker: its message is in the queue; window: other requests of the user come first; others: it has '
    'a completion window, and requests of others leave no room for it now; dispatch: the recovery task will send its '
    'message.';

CALL define_type('queue_position', $$position bigint, ended bigint, seconds double precision$$);

-- position: the queue position, a rank among the user's requests that wait to be started; 1 is the next.
-- ended, seconds: see requests_ended_lately(). Estimated wait = position * seconds / ended.
CREATE OR REPLACE FUNCTION request_position(i inflight) RETURNS queue_position
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    lately record := requests_ended_lately(i.user_id);
    result queue_position;
BEGIN
    SELECT 1 + count(*) INTO result.position FROM inflight o
    WHERE o.user_id = i.user_id AND o.status = 'queued' AND o.request_id <> i.request_id AND o.follows IS NULL
      AND coalesce(o.not_before, '-infinity') <= clock_now()
      AND CASE WHEN i.dispatched_at IS NOT NULL THEN o.dispatched_at < i.dispatched_at
               ELSE o.dispatched_at IS NOT NULL
                    OR (i.priority, i.request_id) > (o.priority, o.request_id) END;
    result.ended := lately.ended;
    result.seconds := lately.seconds;
    RETURN result;
END $$;

CREATE OR REPLACE FUNCTION request_queue(i inflight) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'waits_for', w.waits_for, 'until', w.until, 'failed_attempts', i.failed_attempts,
        'max_attempts', i.max_attempts, 'last_error', i.last_error, 'expires_at', i.expires_at,
        'cancel_requested_at', i.cancel_requested_at, 'position', p.position, 'ended', p.ended, 'seconds', p.seconds)
    FROM request_waits(i) AS w
    LEFT JOIN LATERAL request_position(i) AS p ON w.waits_for IN ('worker', 'window', 'others', 'dispatch');
$$;

CALL define_type('request_state', $$
    outcome text, request_id uuid, model_id text, status text, output jsonb, error_code text, error_message text,
    estimated_tokens integer, reserved_tokens integer, prompt_tokens integer, completion_tokens integer,
    total_tokens integer, created_at timestamptz, started_at timestamptz, completed_at timestamptz,
    processing_time_ms integer, metadata jsonb, cost jsonb, queue jsonb, finish_reason text, cached_tokens integer,
    reasoning_tokens integer, attempts jsonb, answered_by text, cached_from uuid,
    quote jsonb, completion_window text, due_at timestamptz, promote_at timestamptz
$$);

CREATE OR REPLACE FUNCTION request_show(p_key_hash bytea, p_request_id uuid) RETURNS request_state
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    caller record;
    r      requests;
    i      inflight;
    result request_state;
BEGIN
    -- As key_use does, which would be a fifth of the cost.
    SELECT * INTO caller FROM key_find(p_key_hash, 'read');
    IF NOT FOUND OR caller.refusal IS NOT NULL THEN
        result.outcome := coalesce(caller.refusal, 'key_unknown');
        RETURN result;
    ELSIF caller.is_stale THEN
        PERFORM key_touch(caller.key_id);
    END IF;
    result.outcome := 'ok';
    SELECT * INTO r FROM requests q WHERE q.request_id = p_request_id;
    IF NOT FOUND THEN
        SELECT * INTO r FROM requests_archive q WHERE q.request_id = p_request_id;
    END IF;
    -- Another user's request looks like one that does not exist.
    IF r.user_id IS DISTINCT FROM caller.user_id THEN
        result.outcome := 'request_not_found';
        RETURN result;
    END IF;
    IF r.completed_at IS NULL THEN
        SELECT * INTO i FROM inflight f WHERE f.request_id = p_request_id;
        IF FOUND THEN
            result.queue := request_queue(i);
            result.promote_at := CASE WHEN i.priority > 0 THEN i.promote_at END;
        ELSE
            -- It has ended meanwhile, and is shown as ended and not as waiting for nothing.
            SELECT * INTO r FROM requests q WHERE q.request_id = p_request_id;
        END IF;
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
    result.cached_tokens := r.cached_tokens;
    result.reasoning_tokens := r.reasoning_tokens;
    result.created_at := r.created_at;
    result.started_at := r.started_at;
    result.completed_at := r.completed_at;
    result.processing_time_ms := r.processing_time_ms;
    result.finish_reason := r.finish_reason;
    result.cached_from := r.cached_from;
    result.completion_window := r.completion_window;
    result.due_at := r.due_at;
    IF r.result_id IS NOT NULL THEN
        result.output := result_find(r.result_id);
    END IF;
    SELECT f.metadata, f.handling->'quote' INTO result.metadata, result.quote FROM extras_find(p_request_id) AS f;
    -- A request that was answered by its first call has none.
    IF r.attempts > 1 OR r.charges IS NOT NULL OR r.error_code IS NOT NULL OR r.status = 'cancelled'
       OR i.failed_attempts > 0
    THEN
        result.attempts := attempts_json(p_request_id, r.user_id, r.completion_window);
        result.answered_by := answered_by(r.status, r.model_id, result.attempts);
    END IF;
    IF r.completed_at IS NOT NULL THEN
        result.cost := CASE
            WHEN r.charges IS NULL THEN
                request_cost(r.user_id, r.model_id, (r.created_at AT TIME ZONE 'UTC')::date, r.prompt_tokens,
                             r.completion_tokens, r.cached_tokens, r.reasoning_tokens,
                             (r.cached_from IS NOT NULL)::integer, r.completion_window)
            ELSE charges_cost(r.user_id, r.charges, (r.created_at AT TIME ZONE 'UTC')::date,
                              r.completion_window) END;
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION request_show(bytea, uuid) IS
    'One request of the caller: ok, request_not_found, or a refusal of key_check. queue: see request_queue; NULL if '
    'the request has ended. attempts: see attempts_json. answered_by: the model, if not the one that was asked for. '
    'quote: see quote_make, of a request that was accepted with max_cost. promote_at: when it leaves the waiting '
    'class; NULL: it is not of it.';

CALL define_type('request_summary', $$
    outcome text, request_id uuid, prompt text, model_id text, status text, error_code text, error_message text,
    prompt_tokens integer, completion_tokens integer, total_tokens integer, created_at timestamptz,
    started_at timestamptz, completed_at timestamptz, processing_time_ms integer, finish_reason text,
    cached_tokens integer, reasoning_tokens integer, completion_window text, due_at timestamptz
$$);

-- With the first 1,000 characters of their prompts.
CREATE OR REPLACE FUNCTION request_summaries(p_page requests[]) RETURNS SETOF request_summary
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
        SELECT 'ok', r.request_id, prompt_beginning(r.request_id), r.model_id::text, r.status::text,
               r.error_code::text, r.error_message, r.prompt_tokens, r.completion_tokens, r.total_tokens,
               r.created_at, r.started_at, r.completed_at, r.processing_time_ms, r.finish_reason::text,
               r.cached_tokens, r.reasoning_tokens, r.completion_window::text, r.due_at
        FROM unnest(p_page) AS r;
END $$;

-- How many of a user's requests one page looks through. Nothing but the user and the time has an index: an index on
-- what changes would make both updates of a request dearer.
CREATE OR REPLACE FUNCTION history_reach() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 5000;

-- Ids have milliseconds: the first one at or after a time.
CREATE OR REPLACE FUNCTION id_from(p_at timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    RETURN uuidv7_floor(p_at + interval '999 microseconds');

-- Finds a page of a user's requests with ids from p_low up to but not including p_high, newest first. next_cursor:
-- where the next page begins; NULL on the last one. All requests in the archive are older than those in requests: see
-- archive_months.
CREATE OR REPLACE FUNCTION history_search(
    p_user_id text, p_query jsonb, p_low uuid, p_high uuid, OUT page requests[], OUT next_cursor uuid
)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    size     integer := (p_query->>'limit')::integer;
    statuses text[] := CASE WHEN p_query ? 'status'
                            THEN ARRAY(SELECT jsonb_array_elements_text(p_query->'status')) END;
    reach    integer := history_reach();
    wanted   uuid[];
    source   text;
    r        requests;
BEGIN
    page := '{}';
    IF statuses <@ '{queued,processing}' THEN
        -- Few, wherever they are among the user's requests.
        wanted := ARRAY(SELECT i.request_id FROM inflight i
                        WHERE i.user_id = p_user_id AND i.request_id >= p_low AND i.request_id < p_high);
    END IF;
    FOREACH source IN ARRAY ARRAY['requests', 'requests_archive'] LOOP
        FOR r IN EXECUTE format(
            'SELECT q.* FROM %I q '
            'WHERE q.user_id = $1 AND q.request_id >= $2 AND q.request_id < $3 %s '
            'ORDER BY q.request_id DESC LIMIT $5',
            source, CASE WHEN wanted IS NOT NULL THEN 'AND q.request_id = ANY ($4)' END)
            USING p_user_id, p_low, p_high, wanted, reach + 1
        LOOP
            -- There is another one: the page ends before it.
            IF reach = 0 THEN
                RETURN;
            END IF;
            IF (statuses IS NULL OR r.status = ANY (statuses))
               AND (p_query->>'model' IS NULL OR r.model_id = p_query->>'model')
               AND (p_query->>'error_code' IS NULL OR r.error_code = p_query->>'error_code')
            THEN
                IF cardinality(page) = size THEN
                    next_cursor := page[size].request_id;
                    RETURN;
                END IF;
                page := page || r;
            END IF;
            reach := reach - 1;
            next_cursor := r.request_id;
        END LOOP;
    END LOOP;
    next_cursor := NULL;
END $$;

-- The same for a whole query. A page without filters is mostly full of requests that are not archived: that is one
-- statement with a cached plan. The plan does not know how large the page will be: without sorting, it reads no more.
CREATE OR REPLACE FUNCTION history_find(p_user_id text, p_query jsonb, OUT page requests[], OUT next_cursor uuid)
    LANGUAGE plpgsql STABLE SET enable_sort = off AS $$
DECLARE
    size integer := (p_query->>'limit')::integer;
    low  uuid := coalesce(id_from((p_query->>'start')::timestamptz), '00000000-0000-0000-0000-000000000000');
    high uuid := least((p_query->>'cursor')::uuid, id_from((p_query->>'end')::timestamptz),
                       'ffffffff-ffff-ffff-ffff-ffffffffffff');
BEGIN
    IF NOT p_query ?| '{status,model,error_code}' THEN
        page := ARRAY(SELECT q FROM requests q
                      WHERE q.user_id = p_user_id AND q.request_id >= low AND q.request_id < high
                      ORDER BY q.request_id DESC LIMIT size + 1);
        IF cardinality(page) > size THEN
            page := page[:size];
            next_cursor := page[size].request_id;
            RETURN;
        END IF;
    END IF;
    SELECT h.page, h.next_cursor INTO page, next_cursor FROM history_search(p_user_id, p_query, low, high) AS h;
END $$;

CREATE OR REPLACE FUNCTION request_history_v2(p_key_hash bytea, p_query jsonb) RETURNS SETOF request_summary
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    caller record := key_use(p_key_hash, 'read');
    found  record;
    ending request_summary;
BEGIN
    ending.outcome := caller.outcome;
    IF caller.outcome = 'ok' THEN
        SELECT h.page, h.next_cursor INTO found FROM history_find(caller.user_id, p_query) AS h;
        RETURN QUERY SELECT * FROM request_summaries(found.page);
        ending.outcome := CASE WHEN found.next_cursor IS NULL THEN 'end' ELSE 'more' END;
        ending.request_id := found.next_cursor;
    END IF;
    RETURN NEXT ending;
END $$;
COMMENT ON FUNCTION request_history_v2(bytea, jsonb) IS
    'A page of the user''s requests, newest first. p_query: limit; cursor (only older ones than this id), start and '
    'end (times of acceptance, end not included), status (a list), model, error_code. The last row has the outcome '
    'end; more, with the id that is the next cursor; or a refusal of key_check. A page with a next one may be short: '
    'see history_reach.';

-- For the version of the code that knows no filters.
CREATE OR REPLACE FUNCTION request_history(p_key_hash bytea, p_before uuid, p_limit integer)
    RETURNS SETOF request_summary
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
        SELECT * FROM request_history_v2(
            p_key_hash, jsonb_strip_nulls(jsonb_build_object('cursor', p_before, 'limit', p_limit))) AS h
        WHERE h.outcome NOT IN ('end', 'more');
END $$;
COMMENT ON FUNCTION request_history(bytea, uuid, integer) IS
    'The user''s requests older than the given one, newest first, with the first 1,000 characters of their prompts.';

CALL define_type('model_offer', $$
    outcome text, model_id text, is_default boolean, max_tokens_default integer, max_tokens_limit integer,
    kind text, created_at timestamptz, aliases text[], overhead_tokens integer, item_tokens integer,
    image_tokens integer
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
        SELECT 'ok', m.model_id::text, m.is_default, m.max_tokens_default, m.max_tokens_limit, m.kind::text,
               m.created_at,
               ARRAY(SELECT a.alias::text FROM model_aliases a WHERE a.model_id = m.model_id ORDER BY a.alias),
               m.overhead_tokens, m.item_tokens, m.image_tokens
        FROM models m
        WHERE m.is_active
          AND (m.model_id <> ALL ((SELECT k.models FROM api_keys k WHERE k.key_id = caller.key_id)::text[])) IS NOT TRUE
        ORDER BY m.model_id;
END $$;
COMMENT ON FUNCTION model_offers(bytea) IS 'The models that a client may name, with their other names.';
