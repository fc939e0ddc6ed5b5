-- What a client reads: one call each. Results and prompts are looked up by variables, one statement after the other, so
-- that each look-up is planned for its id and opens one partition.

CREATE OR REPLACE FUNCTION request_read(key_hash bytea, id uuid)
    RETURNS TABLE (
        outcome text, request_id uuid, model_id text, status text, result text, result_type text,
        error_code text, error_message text, estimated_tokens integer, reserved_tokens integer,
        prompt_tokens integer, completion_tokens integer, total_tokens integer,
        created_at timestamptz, started_at timestamptz, completed_at timestamptz, processing_time_ms integer,
        metadata jsonb, cost jsonb
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    who      record;
    r        requests;
    answer   record;
    asked    jsonb;
BEGIN
    who := key_check(request_read.key_hash, 'read');
    IF who.outcome <> 'ok' THEN
        outcome := who.outcome;
        RETURN NEXT;
        RETURN;
    END IF;
    IF who.is_stale THEN
        PERFORM key_touch(who.key_id);
    END IF;
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
    RETURN QUERY SELECT
        'ok', r.request_id, r.model_id::text, r.status::text, answer.content, answer.content_type::text,
        r.error_code::text, r.error_message, r.estimated_tokens, r.reserved_tokens,
        r.prompt_tokens, r.completion_tokens, r.total_tokens,
        r.created_at, r.started_at, r.completed_at, r.processing_time_ms, asked, request_cost(r);
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
    who   record;
    found_ids uuid[];
    first_id  uuid;
BEGIN
    who := key_check(request_history.key_hash, 'read');
    IF who.outcome <> 'ok' THEN
        outcome := who.outcome;
        RETURN NEXT;
        RETURN;
    END IF;
    IF who.is_stale THEN
        PERFORM key_touch(who.key_id);
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
