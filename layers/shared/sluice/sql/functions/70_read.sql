-- What a client reads: one call each. Results and prompts are looked up by variables, one statement after the other, so
-- that each look-up is planned for its id and opens one partition.

-- What an unfinished request waits for, and until when where that is known.
CREATE OR REPLACE FUNCTION request_waits(i inflight, OUT waits_for text, OUT until timestamptz)
    LANGUAGE sql STABLE AS $$
    SELECT CASE
               WHEN i.status = 'processing' AND i.lease_until < clock_now() THEN 'recovery'
               WHEN i.status = 'processing' THEN 'model'
               WHEN i.not_before > clock_now() AND i.failures > 0 THEN 'retry'
               WHEN i.not_before > clock_now() THEN 'not_before'
               WHEN i.dispatched_at IS NOT NULL THEN 'worker'
               WHEN (SELECT count(*) FROM inflight d WHERE d.user_id = i.user_id AND d.dispatched_at IS NOT NULL)
                    >= (SELECT p.dispatch_window FROM quota_plans p WHERE p.user_id = i.user_id) THEN 'window'
               ELSE 'dispatch' END,
           CASE WHEN i.status = 'queued' AND i.not_before > clock_now() THEN i.not_before END;
$$;
COMMENT ON FUNCTION request_waits(inflight) IS
    'model: a worker has it; recovery: that worker was lost; retry: the last attempt failed; not_before: the client asked '
    'for it; worker: its message is in the queue; window: others of the user come first; dispatch: the next sweep sends it.';

-- Its place among those of its user's requests that wait to be begun, 1 being the next, and when it may be begun, to judge by
-- how many of the user's requests have ended since the oldest of those that are not finished was queued: so long, and ten
-- minutes at most, somebody has worked on them without a pause. Nothing is guessed where none has ended since.
CREATE OR REPLACE FUNCTION request_place(i inflight)
    RETURNS TABLE (place bigint, ended bigint, seconds double precision)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    since timestamptz;
BEGIN
    SELECT 1 + count(*) INTO place FROM inflight o
    WHERE o.user_id = i.user_id AND o.status = 'queued' AND o.request_id <> i.request_id
      AND coalesce(o.not_before, '-infinity') <= clock_now()
      AND CASE WHEN i.dispatched_at IS NOT NULL THEN o.dispatched_at < i.dispatched_at
               ELSE o.dispatched_at IS NOT NULL OR (o.priority, i.request_id) > (i.priority, o.request_id) END;
    SELECT greatest(min(coalesce(o.not_before, r.created_at)), clock_now() - interval '10 minutes') INTO since
    FROM inflight o JOIN requests r ON r.request_id = o.request_id
    WHERE o.user_id = i.user_id AND coalesce(o.not_before, '-infinity') <= clock_now();
    SELECT count(*) INTO ended FROM (
        SELECT FROM audit_log a
        WHERE a.user_id = i.user_id AND a.audit_id >= uuidv7_floor(since) AND a.action IN ('request.completed', 'request.failed')
        LIMIT 1000) AS counted;
    seconds := extract(epoch FROM clock_now() - since);
    RETURN NEXT;
END $$;

CREATE OR REPLACE FUNCTION request_show(key_hash bytea, id uuid)
    RETURNS TABLE (
        outcome text, request_id uuid, model_id text, status text, result text, result_type text,
        error_code text, error_message text, estimated_tokens integer, reserved_tokens integer,
        prompt_tokens integer, completion_tokens integer, total_tokens integer,
        created_at timestamptz, started_at timestamptz, completed_at timestamptz, processing_time_ms integer,
        metadata jsonb, cost jsonb, queue jsonb
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    who      record := key_use(request_show.key_hash, 'read');
    i        inflight;
    r        requests;
    answer   record;
    asked    jsonb;
    line     jsonb;
BEGIN
    IF who.outcome <> 'ok' THEN
        outcome := who.outcome;
        RETURN NEXT;
        RETURN;
    END IF;
    -- First, so that a request that ends meanwhile is seen as ended rather than as waiting for nothing.
    SELECT * INTO i FROM inflight f WHERE f.request_id = id;
    SELECT * INTO r FROM requests q WHERE q.request_id = id;
    IF NOT FOUND THEN
        SELECT * INTO r FROM requests_archive q WHERE q.request_id = id;
    END IF;
    -- Somebody else's request is no more to be seen than one that never was.
    IF r.user_id IS DISTINCT FROM who.user_id THEN
        outcome := 'request_not_found';
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT a.content, a.content_type INTO answer FROM results a WHERE a.result_id = r.result_id;
    SELECT p.metadata INTO asked FROM prompts p WHERE p.request_id = id;
    IF r.completed_at IS NULL AND i.request_id IS NOT NULL THEN
        SELECT jsonb_build_object(
                   'waits_for', w.waits_for, 'until', w.until, 'failures', i.failures, 'max_attempts', i.max_attempts,
                   'last_error', i.last_error, 'expires_at', i.expires_at, 'cancel_requested_at', i.cancelled_at,
                   'place', p.place, 'ended', p.ended, 'seconds', p.seconds)
        INTO line
        FROM request_waits(i) AS w
        LEFT JOIN LATERAL request_place(i) AS p ON w.waits_for IN ('worker', 'window', 'dispatch');
    END IF;
    RETURN QUERY SELECT
        'ok', r.request_id, r.model_id::text, r.status::text, answer.content, answer.content_type::text,
        r.error_code::text, r.error_message, r.estimated_tokens, r.reserved_tokens,
        r.prompt_tokens, r.completion_tokens, r.total_tokens,
        r.created_at, r.started_at, r.completed_at, r.processing_time_ms, asked, request_cost(r), line;
END $$;

CREATE OR REPLACE FUNCTION request_history(key_hash bytea, before uuid, at_most integer)
    RETURNS TABLE (
        outcome text, request_id uuid, prompt text, model_id text, status text,
        error_code text, error_message text, prompt_tokens integer, completion_tokens integer, total_tokens integer,
        created_at timestamptz, started_at timestamptz, completed_at timestamptz, processing_time_ms integer
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    who       record := key_use(request_history.key_hash, 'read');
    found_ids uuid[];
BEGIN
    IF who.outcome <> 'ok' THEN
        outcome := who.outcome;
        RETURN NEXT;
        RETURN;
    END IF;
    found_ids := ARRAY(
        SELECT r.request_id FROM requests r
        WHERE r.user_id = who.user_id AND r.request_id < coalesce(before, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        ORDER BY r.request_id DESC LIMIT at_most);
    IF cardinality(found_ids) < at_most THEN
        found_ids := found_ids || ARRAY(
            SELECT r.request_id FROM requests_archive r
            WHERE r.user_id = who.user_id AND r.request_id < coalesce(before, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            ORDER BY r.request_id DESC LIMIT at_most - cardinality(found_ids));
    END IF;
    RETURN QUERY
        SELECT 'ok', r.request_id, left(p.prompt, 1000), r.model_id::text, r.status::text,
               r.error_code::text, r.error_message, r.prompt_tokens, r.completion_tokens, r.total_tokens,
               r.created_at, r.started_at, r.completed_at, r.processing_time_ms
        FROM requests_all r
        LEFT JOIN prompts p ON p.request_id = r.request_id AND p.request_id = ANY (found_ids)
        WHERE r.request_id = ANY (found_ids)
        ORDER BY r.request_id DESC;
END $$;
COMMENT ON FUNCTION request_history IS
    'The user''s requests older than one of them, newest first, with the first 1,000 characters of their prompts: a page '
    'of whole ones could be larger than an answer of Lambda may be.';

CREATE OR REPLACE FUNCTION model_offer(key_hash bytea)
    RETURNS TABLE (
        outcome text, model_id text, is_default boolean, max_tokens_default integer, max_tokens_limit integer
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    who record;
BEGIN
    who := key_check(model_offer.key_hash, 'read');
    IF who.outcome <> 'ok' THEN
        outcome := who.outcome;
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY
        SELECT 'ok', m.model_id::text, m.is_default, m.max_tokens_default, m.max_tokens_limit
        FROM models m WHERE m.is_active ORDER BY m.model_id;
END $$;
COMMENT ON FUNCTION model_offer(bytea) IS 'The models a client may name.';
