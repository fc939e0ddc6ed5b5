-- What of a request is charged by which model. Mostly one call of one model answers it. If a call had to be repeated or
-- another model answered, the request has charges, and its calls are in attempts.

-- The models that may answer a request, the one that was asked for first. p_handling: prompts.handling.
CREATE OR REPLACE FUNCTION request_models(p_model_id text, p_handling jsonb) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN p_model_id || CASE WHEN p_handling ? 'fallbacks'
                              THEN ARRAY(SELECT jsonb_array_elements_text(p_handling->'fallbacks'))
                              ELSE '{}'::text[] END;

CREATE OR REPLACE FUNCTION request_repairs(p_handling jsonb) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce((p_handling->>'repair_attempts')::integer, 0);
COMMENT ON FUNCTION request_repairs(jsonb) IS
    'How often a model may be asked again whose answer is not of the form that was asked for.';

CALL define_type('charge', $$
    model_id text, requests integer, prompt_tokens integer, completion_tokens integer, cached_tokens integer,
    reasoning_tokens integer, cached_answers integer
$$);

-- The charges of a request. The first row is of the model that was asked for, and the request counts there.
-- p_is_shared: it was answered from the cache, or with an equal request.
CREATE OR REPLACE FUNCTION request_charges(
    p_model_id text, p_charges jsonb, p_prompt_tokens integer, p_completion_tokens integer, p_cached_tokens integer,
    p_reasoning_tokens integer, p_is_shared boolean
)
    RETURNS SETOF charge
    LANGUAGE sql STABLE AS $$
    SELECT p_model_id, 1, CASE WHEN p_charges IS NULL THEN p_prompt_tokens END,
           CASE WHEN p_charges IS NULL THEN p_completion_tokens END,
           CASE WHEN p_charges IS NULL THEN p_cached_tokens END,
           CASE WHEN p_charges IS NULL THEN p_reasoning_tokens END, p_is_shared::integer
    UNION ALL
    SELECT c.model_id, 0, c.prompt_tokens, c.completion_tokens, c.cached_tokens, c.reasoning_tokens, 0
    FROM jsonb_to_recordset(p_charges) AS c (
        model_id text, prompt_tokens integer, completion_tokens integer, cached_tokens integer,
        reasoning_tokens integer);
$$;
COMMENT ON FUNCTION request_charges(text, jsonb, integer, integer, integer, integer, boolean) IS
    'For use in FROM, where PostgreSQL puts it into the query.';

-- The charges of the calls that a worker reports (see outcome), by model.
CREATE OR REPLACE FUNCTION calls_charges(p_calls jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT jsonb_agg(jsonb_strip_nulls(to_jsonb(s)) ORDER BY s.model_id)
    FROM (
        SELECT c.model_id, sum(c.prompt_tokens) AS prompt_tokens, sum(c.completion_tokens) AS completion_tokens,
               nullif(sum(c.cached_tokens), 0) AS cached_tokens, nullif(sum(c.reasoning_tokens), 0) AS reasoning_tokens
        FROM jsonb_to_recordset(p_calls) AS c (
            model_id text, prompt_tokens integer, completion_tokens integer, cached_tokens integer,
            reasoning_tokens integer, is_charged boolean)
        WHERE c.is_charged
        GROUP BY c.model_id
    ) AS s;
$$;
COMMENT ON FUNCTION calls_charges(jsonb) IS 'NULL if no call is charged.';

-- Writes the calls that a worker reports. p_is_final: the attempt ended the request; otherwise nothing is charged.
CREATE OR REPLACE FUNCTION attempts_keep(p_request_id uuid, p_attempt smallint, p_calls jsonb, p_is_final boolean)
    RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO attempts
        (request_id, attempt, call, model_id, backend, cause, http_status, prompt_tokens, completion_tokens,
         cached_tokens, reasoning_tokens, is_charged, begun_at, ended_at)
    SELECT p_request_id, p_attempt, c.n, c.model_id, c.backend, c.cause, c.http_status, c.prompt_tokens,
           c.completion_tokens, c.cached_tokens, c.reasoning_tokens, p_is_final AND coalesce(c.is_charged, false),
           c.begun_at, c.ended_at
    FROM ROWS FROM (jsonb_to_recordset(p_calls) AS (
        model_id text, backend text, cause text, http_status smallint, prompt_tokens integer,
        completion_tokens integer, cached_tokens integer, reasoning_tokens integer, is_charged boolean,
        begun_at timestamptz, ended_at timestamptz)) WITH ORDINALITY AS c (
        model_id, backend, cause, http_status, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens,
        is_charged, begun_at, ended_at, n)
    ON CONFLICT DO NOTHING;
$$;

-- A worker that was lost took its calls with it: one row stands for them.
CREATE OR REPLACE FUNCTION attempts_lost(p_ids uuid[], p_at timestamptz) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO attempts (request_id, attempt, call, model_id, backend, cause, is_charged, begun_at, ended_at)
    SELECT r.request_id, r.attempts, 0, r.model_id, m.backend, 'worker_lost', false, r.started_at, p_at
    FROM requests r JOIN models m ON m.model_id = r.model_id
    WHERE r.request_id = ANY (p_ids) AND r.started_at IS NOT NULL
    ON CONFLICT DO NOTHING;
$$;

-- The tokens of calls that nobody pays for.
CREATE OR REPLACE FUNCTION calls_wasted(p_calls jsonb) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT nullif(sum(coalesce(c.prompt_tokens, 0) + coalesce(c.completion_tokens, 0)), 0)::bigint
    FROM jsonb_to_recordset(p_calls) AS c (prompt_tokens integer, completion_tokens integer, is_charged boolean)
    WHERE c.is_charged IS NOT TRUE;
$$;

-- The attempts of a request, oldest first, each with what it cost at the prices of its own model; NULL: there are none.
CREATE OR REPLACE FUNCTION attempts_json(p_request_id uuid, p_user_id text, p_window text) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT jsonb_agg(jsonb_build_object(
                   'attempt', a.attempt, 'model', a.model_id, 'backend', a.backend, 'cause', a.cause,
                   'http_status', a.http_status, 'prompt_tokens', a.prompt_tokens,
                   'completion_tokens', a.completion_tokens, 'cached_tokens', a.cached_tokens,
                   'reasoning_tokens', a.reasoning_tokens, 'is_charged', a.is_charged,
                   'cost', CASE WHEN a.prompt_tokens IS NOT NULL THEN
                       request_cost(p_user_id, a.model_id,
                                    (uuid_extract_timestamp(a.request_id) AT TIME ZONE 'UTC')::date,
                                    a.prompt_tokens, a.completion_tokens, a.cached_tokens, a.reasoning_tokens, 0,
                                    p_window) END,
                   'begun_at', a.begun_at, 'ended_at', a.ended_at)
                   ORDER BY a.attempt, a.call)
            FROM attempts a WHERE a.request_id = p_request_id);
END $$;

-- The model that answered, if it is not the one that was asked for: the last one that was called. p_attempts: as
-- attempts_json() has them.
CREATE OR REPLACE FUNCTION answered_by(p_status text, p_model_id text, p_attempts jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN p_status = 'completed' AND (p_attempts #> '{-1,is_charged}')::boolean
                THEN nullif(p_attempts #>> '{-1,model}', p_model_id) END;

-- What the charges of a request cost; as request_cost(), which is for one model.
CREATE OR REPLACE FUNCTION charges_cost(p_user_id text, p_charges jsonb, p_day date, p_window text) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object(
            'amount', CASE WHEN count(*) = count(a.amount) THEN trim_scale(sum(a.amount))::text END,
            'currency', l.currency, 'price_list', l.price_list)
        FROM billing_terms_on(p_user_id, p_day) AS t
        JOIN price_lists l ON l.price_list = window_list(t.price_list, p_window, p_day)
        CROSS JOIN LATERAL request_charges(NULL, p_charges, NULL, NULL, NULL, NULL, false) AS c
        CROSS JOIN LATERAL (
            SELECT tokens_cost(l.price_list, c.model_id, p_day, c.prompt_tokens, c.completion_tokens, c.cached_tokens,
                               c.reasoning_tokens, 0) AS amount
        ) AS a
        WHERE c.requests = 0
        GROUP BY l.currency, l.price_list);
END $$;
