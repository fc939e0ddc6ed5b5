-- The answer cache, and single flight: a request that may be answered with what an equal one of the same user was
-- answered, or waits for the answer that an equal one is getting. The caller holds the user lock.

-- The longest that an answer is found again, and how old it may be where a request asks for the cache and says nothing
-- else.
CREATE OR REPLACE FUNCTION cache_rules(OUT longest interval, OUT usual integer)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '30 days', 3600;
$$;

-- sluice.domain.fingerprint makes the same of a claim. p_question: a digest of the input and of the parameters.
CREATE OR REPLACE FUNCTION question_fingerprint(
    p_user_id text, p_model_id text, p_max_tokens integer, p_question text
)
    RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256(convert_to(concat_ws(E'\n', p_user_id, p_model_id, p_max_tokens, p_question), 'UTF8'));

-- What the cache has for a submission:
--   said         hit; follow (an equal request is unfinished); miss; refresh (it is not asked); bypass, and uncacheable
--                (nothing will be kept, either: the client does not want it, or the answer is a matter of chance);
--                NULL: nobody spoke of a cache
--   fingerprint, cache_scope   where the answer will be kept; NULL: it will not
--   request_id, result_id, answered_at, finish_reason   hit: the answer
--   leader_id    follow: the request that is unfinished
CALL define_type('cache_look_up', $$
    said text, fingerprint bytea, cache_scope uuid, request_id uuid, result_id uuid, answered_at timestamptz,
    finish_reason text, leader_id uuid
$$);

-- p_max_age: what the key, the model or the tier says; NULL: none of them does.
CREATE OR REPLACE FUNCTION cache_look(
    p_user_id text, p_key_id uuid, p_max_age integer, m models, p_submission jsonb, p_max_tokens integer
)
    RETURNS cache_look_up
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    asked   jsonb := coalesce(nullif(p_submission->'cache', 'null'), '{}');
    max_age integer := coalesce((asked->>'max_age')::integer, nullif(p_max_age, 0), (cache_rules()).usual);
    found   answer_cache;
    result  cache_look_up;
BEGIN
    IF asked = 'false' THEN
        result.said := 'bypass';
        RETURN result;
    END IF;
    -- An image has neither temperature nor seed, and is another one each time.
    IF m.kind IN ('chat', 'image') AND (p_submission #>> '{parameters,temperature}')::numeric IS DISTINCT FROM 0
       AND NOT coalesce(p_submission->'parameters' ? 'seed', false) AND asked->'sampled' IS DISTINCT FROM 'true'
    THEN
        result.said := 'uncacheable';
        RETURN result;
    END IF;
    result.fingerprint := question_fingerprint(p_user_id, m.model_id, p_max_tokens, p_submission->>'question');
    result.cache_scope := CASE WHEN asked->>'scope' = 'key' THEN p_key_id ELSE cache_scope_of_all() END;
    IF asked->'refresh' = 'true' THEN
        result.said := 'refresh';
        RETURN result;
    END IF;
    SELECT * INTO found FROM answer_cache c
    WHERE (c.user_id, c.fingerprint, c.cache_scope) = (p_user_id, result.fingerprint, result.cache_scope);
    IF found.answered_at > clock_now() - make_interval(secs => max_age) THEN
        result.said := 'hit';
        result.request_id := found.request_id;
        result.result_id := found.result_id;
        result.answered_at := found.answered_at;
        result.finish_reason := (SELECT a.output->>'finish_reason' FROM result_find(found.result_id) AS a);
    ELSIF found.leader_id IS NOT NULL THEN
        result.said := 'follow';
        result.leader_id := found.leader_id;
    ELSE
        result.said := 'miss';
    END IF;
    RETURN result;
END $$;

CREATE OR REPLACE FUNCTION cache_scope_of_all() RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '00000000-0000-0000-0000-000000000000'::uuid;

-- The request asks now, for all equal ones that come while it is unfinished.
CREATE OR REPLACE FUNCTION flight_begin(p_user_id text, p_model_id text, p_request_id uuid, p_look cache_look_up)
    RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO answer_cache AS c (user_id, fingerprint, cache_scope, model_id, leader_id)
    VALUES (p_user_id, p_look.fingerprint, p_look.cache_scope, p_model_id, p_request_id)
    ON CONFLICT (user_id, fingerprint, cache_scope) DO UPDATE SET leader_id = EXCLUDED.leader_id;
$$;

-- A request that follows another must not wait longer for that. Returns whether the other one waits for its dispatch,
-- and is promoted.
CREATE OR REPLACE FUNCTION flight_hurry(p_leader_id uuid, p_priority smallint, p_promote_at timestamptz)
    RETURNS boolean
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE inflight i SET
        priority = p_priority, promote_at = CASE p_priority WHEN 0 THEN i.promote_at ELSE p_promote_at END
    WHERE i.request_id = p_leader_id AND i.priority > 0 AND (p_priority = 0 OR p_promote_at < i.promote_at);
    RETURN FOUND AND p_priority = 0;
END $$;

-- What becomes of those that follow requests which have ended. They get the answer, if there is one that they may have;
-- otherwise the most urgent of them asks itself, and the others follow it. Returns those that ended with it.
CREATE OR REPLACE FUNCTION flights_land(p_ended settlement[], p_actor text, p_at timestamptz) RETURNS SETOF settlement
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    s      settlement;
    r      requests;
    others text[];
    served settlement[];
    chosen uuid;
BEGIN
    FOREACH s IN ARRAY p_ended LOOP
        CONTINUE WHEN s.fingerprint_key IS NULL;
        IF s.outcome = 'completed' THEN
            SELECT * INTO r FROM requests q WHERE q.request_id = s.request_id;
            -- The models that answered besides the one that was asked for.
            others := ARRAY(SELECT c.model_id FROM request_charges(r.model_id, r.charges, 0, 0, 0, 0, false) AS c
                            WHERE c.model_id <> r.model_id);
            -- Only what the model itself answered is found again.
            UPDATE answer_cache c SET request_id = s.request_id, result_id = s.result_id, answered_at = p_at
            WHERE (c.user_id, c.fingerprint, c.cache_scope) = (s.user_id, s.fingerprint_key, s.cache_scope)
              AND others = '{}';
            served := ARRAY(
                SELECT jsonb_populate_record(NULL::settlement, jsonb_build_object(
                    'request_id', i.request_id, 'attempt', i.attempt, 'user_id', i.user_id, 'outcome', 'completed',
                    'result_id', s.result_id, 'prompt_tokens', 0, 'completion_tokens', 0, 'status_before', i.status,
                    'source', s.request_id, 'finish_reason', r.finish_reason,
                    'has_webhook', i.has_webhook, 'batch_id', i.batch_id))
                FROM inflight i
                CROSS JOIN LATERAL question_find(i.request_id) AS p
                WHERE i.follows = s.request_id AND others <@ request_models(r.model_id, p.handling)
                ORDER BY i.request_id);
            IF served <> '{}' THEN
                RETURN QUERY SELECT * FROM unnest(settlements_end(served, p_actor, p_at));
            END IF;
        END IF;
        UPDATE inflight i SET follows = NULL
        FROM (SELECT f.request_id FROM inflight f WHERE f.follows = s.request_id
              -- Nobody may wait for one that itself may wait longer.
              ORDER BY f.priority, CASE f.priority WHEN 0 THEN NULL ELSE f.promote_at END, f.request_id
              LIMIT 1) AS first
        WHERE i.request_id = first.request_id
        RETURNING i.request_id INTO chosen;
        IF chosen IS NOT NULL THEN
            UPDATE inflight i SET follows = chosen WHERE i.follows = s.request_id;
            PERFORM audit_write(p_actor, ARRAY[ROW(
                'request.promoted', s.user_id, NULL, chosen, NULL,
                jsonb_build_object('instead_of', s.request_id))::audit_entry]);
        END IF;
        UPDATE answer_cache c SET leader_id = chosen
        WHERE (c.user_id, c.fingerprint, c.cache_scope) = (s.user_id, s.fingerprint_key, s.cache_scope)
          AND c.leader_id = s.request_id AND (chosen IS NOT NULL OR c.result_id IS NOT NULL);
        DELETE FROM answer_cache c
        WHERE (c.user_id, c.fingerprint, c.cache_scope) = (s.user_id, s.fingerprint_key, s.cache_scope)
          AND c.leader_id = s.request_id;
    END LOOP;
END $$;

-- Forgetting ----------------------------------------------------------------------------------------------------------

-- Lets answers be found no longer: those in these rows, which the caller has locked. What is unfinished goes on.
CREATE OR REPLACE FUNCTION cache_drop(p_rows tid[]) RETURNS integer
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE answer_cache c SET request_id = NULL, result_id = NULL, answered_at = NULL
    WHERE c.ctid = ANY (p_rows) AND c.leader_id IS NOT NULL;
    DELETE FROM answer_cache c WHERE c.ctid = ANY (p_rows) AND c.leader_id IS NULL;
    RETURN cardinality(p_rows);
END $$;

-- Those of a user, of a model or of a result. The caller holds the locks of the users. Returns how many.
CREATE OR REPLACE FUNCTION cache_forget(p_user_id text, p_model_id text DEFAULT NULL, p_result_id uuid DEFAULT NULL)
    RETURNS integer
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN cache_drop(ARRAY(
        SELECT c.ctid FROM answer_cache c
        WHERE c.result_id IS NOT NULL AND (p_user_id IS NULL OR c.user_id = p_user_id)
          AND (p_model_id IS NULL OR c.model_id = p_model_id) AND (p_result_id IS NULL OR c.result_id = p_result_id)
        FOR UPDATE));
END $$;

CALL define_type('cache_purging', $$outcome text, forgotten integer$$);

-- What DELETE /cache does in the database.
CREATE OR REPLACE FUNCTION cache_purge(p_key_hash bytea) RETURNS cache_purging
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    caller record := key_check(p_key_hash, 'submit');
    result cache_purging;
BEGIN
    result.outcome := caller.outcome;
    IF caller.outcome = 'ok' THEN
        PERFORM user_lock(caller.user_id);
        result.forgotten := cache_forget(caller.user_id);
        PERFORM audit_write('submit', ARRAY[ROW(
            'cache.purged', caller.user_id, caller.key_id, NULL, NULL,
            jsonb_build_object('answers', result.forgotten))::audit_entry]);
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION cache_purge(bytea) IS
    'Lets no answer of the caller be found again. The requests keep theirs: ok, or a refusal of key_check.';

-- A row that a submission or a settlement has locked is left for the next run.
CREATE OR REPLACE FUNCTION cache_expire(p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN cache_drop(ARRAY(
        SELECT c.ctid FROM answer_cache c
        WHERE c.answered_at < clock_now() - (cache_rules()).longest
        LIMIT p_limit FOR UPDATE SKIP LOCKED));
END $$;
COMMENT ON FUNCTION cache_expire(integer) IS 'Forgets answers that are too old for any request; returns how many.';
