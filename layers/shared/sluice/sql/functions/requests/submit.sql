-- Submitting: one request is accepted, or refused with a reason. One call, one commit.

CALL define_type('admission', $$
    outcome text, request_id uuid, user_id text, model_id text, send uuid[], detail jsonb
$$);
-- An admission with the quote, where there is one; see quote_make().
CALL define_type('decision', $$
    outcome text, request_id uuid, user_id text, model_id text, send uuid[], detail jsonb, quoted jsonb
$$);
CALL define_type('lifetime', $$begins_at timestamptz, expires_at timestamptz, refusal text$$);

-- What POST /generate does in the database.
CREATE OR REPLACE FUNCTION request_submit(p_key_hash bytea, p_submission jsonb) RETURNS admission
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    made   decision := submission_decide(p_key_hash, p_submission);
    result admission;
BEGIN
    result.outcome := made.outcome;
    result.request_id := made.request_id;
    result.user_id := made.user_id;
    result.model_id := made.model_id;
    result.send := made.send;
    result.detail := made.detail;
    RETURN result;
END $$;
COMMENT ON FUNCTION request_submit(bytea, jsonb) IS
    'p_submission: input, kind (of model; chat if not given), model, parameters, metadata, surface, idempotency_key, '
    'body_hash (hexadecimal), repeat (see repeat_find), ttl_seconds, expires_at, not_before, longest_seconds (the '
    'longest lifetime, also the default), max_attempts, fallbacks (names of models; if not given: those of the model), '
    'repair_attempts, question (its digest, by which equal ones are known), cache (false, or '
    'max_age, scope, refresh, sampled), max_cost (refuse what may cost more), webhook (an URL that is told how it '
    'ended), stored (the object that holds the input) and beginning (what is kept of it here), '
    'window (see completion_windows) and due_at (its end, if not as long after its beginning as the window is). See '
    'request_admit.';

-- The same with p_submission->quote: nothing is accepted.
CREATE OR REPLACE FUNCTION submission_decide(p_key_hash bytea, p_submission jsonb) RETURNS decision
    LANGUAGE plpgsql AS $$
DECLARE
    caller record;
    plan   quota_plans;
    result decision;
BEGIN
    -- Nearly always, the key is good and the lock is free: one statement finds the one and takes the other.
    SELECT p AS plan, k.key_id, k.models, k.cache_max_age, key_is_stale(k) AS is_stale
    INTO caller
    FROM api_keys k JOIN users u ON u.user_id = k.user_id JOIN quota_plans p ON p.user_id = k.user_id
    WHERE k.key_hash = p_key_hash AND key_refusal(k, u, 'submit') IS NULL
    FOR NO KEY UPDATE OF p SKIP LOCKED;
    IF FOUND THEN
        plan := caller.plan;
    ELSE
        caller := key_check(p_key_hash, 'submit');
        IF caller.outcome = 'ok' THEN
            plan := user_lock(caller.user_id);
            -- Checked again: the key may have been revoked while this waited for the lock.
            SELECT c.*, k.models, k.cache_max_age INTO caller
            FROM key_check(p_key_hash, 'submit') AS c LEFT JOIN api_keys k ON k.key_id = c.key_id;
        END IF;
        IF caller.outcome <> 'ok' THEN
            result.outcome := caller.outcome;
            RETURN result;
        END IF;
    END IF;
    result := request_admit(plan, caller.key_id, caller.models, caller.cache_max_age, 'submit', p_submission, true);
    IF caller.is_stale AND result.outcome = 'accepted' THEN
        PERFORM key_touch(caller.key_id);
    END IF;
    RETURN result;
END $$;

-- The core. The user is known, and the caller holds the user lock. A refusal returns before the first write.
-- p_key_models: those that the key may be used for; NULL: all. p_key_max_age: see api_keys.cache_max_age.
CREATE OR REPLACE FUNCTION request_admit(
    plan quota_plans, p_key_id uuid, p_key_models text[], p_key_max_age integer, p_actor text, p_submission jsonb,
    p_may_dispatch boolean
)
    RETURNS decision
    LANGUAGE plpgsql AS $$
DECLARE
    m          models;
    bytes      integer;
    images     integer;
    completion integer;
    repairs    integer := 0;
    standby    record;
    model_ids  text[];
    completions integer;
    look       cache_look_up;
    is_hit     boolean := false;
    reserved   integer;
    needed     bigint;
    now_is     text;
    life       lifetime;
    room       record;
    quota      record;
    budget     record;
    patience   completion_window;
    due        timestamptz;
    urgency    smallint := 0;  -- inflight.priority
    promotion  timestamptz;
    is_first   boolean;
    at         timestamptz;
    result     decision;
BEGIN
    result.send := '{}';
    result.user_id := plan.user_id;
    IF plan.user_id IS NULL THEN
        result.outcome := 'user_inactive';
        RETURN result;
    END IF;

    IF p_submission->>'idempotency_key' IS NOT NULL THEN
        SELECT i.outcome, i.request_id, i.status INTO result.outcome, result.request_id, now_is
        FROM idempotency_find(plan.user_id, p_submission) AS i;
        IF result.outcome IS NOT NULL THEN
            result.detail := jsonb_build_object('quotas', quota_counters(plan.user_id, clock_now()), 'status', now_is);
            RETURN result;
        END IF;
    ELSIF p_submission ? 'repeat' THEN
        SELECT f.request_id, f.status INTO result.request_id, now_is FROM repeat_find(plan.user_id, p_submission) AS f;
        IF result.request_id IS NOT NULL THEN
            result.outcome := 'replayed';
            result.detail := jsonb_build_object('quotas', quota_counters(plan.user_id, clock_now()), 'status', now_is);
            RETURN result;
        END IF;
    END IF;

    result.model_id := p_submission->>'model';
    IF result.model_id IS NULL THEN
        SELECT * INTO m FROM models t WHERE t.is_default AND t.is_active;
    ELSE
        SELECT * INTO m FROM models t WHERE t.model_id = result.model_id AND t.is_active;
        IF NOT FOUND THEN
            SELECT t.* INTO m FROM model_aliases n JOIN models t ON t.model_id = n.model_id
            WHERE n.alias = result.model_id AND t.is_active;
        END IF;
    END IF;
    IF NOT FOUND THEN
        result.outcome := CASE WHEN result.model_id IS NULL THEN 'model_missing' ELSE 'model_unknown' END;
        result.model_id := NULL;
        RETURN result;
    END IF;
    result.model_id := m.model_id;
    IF m.model_id <> ALL (p_key_models) THEN
        result.outcome := 'model_not_allowed';
        RETURN result;
    ELSIF m.kind <> coalesce(p_submission->>'kind', 'chat') THEN
        result.outcome := 'model_kind_differs';
        result.detail := jsonb_build_object('kind', m.kind);
        RETURN result;
    END IF;

    -- Of an image, the most that the operator lets it count; a client cannot ask for more or less.
    completion := CASE m.kind WHEN 'chat' THEN
        coalesce((p_submission #>> '{parameters,max_tokens}')::integer, m.max_tokens_default)
        WHEN 'image' THEN m.max_tokens_limit ELSE 0 END;
    IF completion > m.max_tokens_limit THEN
        result.outcome := 'max_tokens_exceeded';
        result.detail := jsonb_build_object('max_tokens_limit', m.max_tokens_limit);
        RETURN result;
    END IF;
    -- An upper limit, because no tokenizer makes more tokens than there are bytes.
    IF input_is_plain(p_submission->'input') THEN
        -- As input_bytes does, without calling it: most requests are of one text.
        bytes := octet_length(p_submission #>> '{input,messages,0,content,0,text}');
        needed := bytes::bigint + m.overhead_tokens + completion;
    ELSE
        bytes := input_bytes(p_submission->'input');
        images := input_image_count(p_submission->'input');
        IF images > 0 AND m.image_tokens IS NULL THEN
            result.outcome := 'images_not_taken';
            RETURN result;
        END IF;
        needed := bytes::bigint + m.overhead_tokens + completion
                  + input_extra_items(p_submission->'input')::bigint * m.item_tokens
                  + images::bigint * coalesce(m.image_tokens, 0);
        IF p_submission->'input' ? 'response_format' THEN
            repairs := coalesce((p_submission->>'repair_attempts')::integer, 0);
        END IF;
    END IF;
    model_ids := ARRAY[m.model_id];
    IF p_submission ? 'fallbacks' OR m.fallbacks <> '{}' THEN
        standby := fallbacks_find(m, p_submission, p_key_models, completion);
        IF standby.refusal IS NOT NULL THEN
            result.outcome := standby.refusal;
            result.detail := standby.detail;
            RETURN result;
        END IF;
        model_ids := model_ids || standby.model_ids;
    END IF;
    IF repairs > 0 OR cardinality(model_ids) > 1 THEN
        SELECT max(tokens_most(t, p_submission->'input', completion, repairs)) INTO needed
        FROM models t WHERE t.model_id = ANY (model_ids);
    END IF;
    completions := completion * (1 + repairs);
    IF needed > reservation_most() THEN
        result.outcome := 'prompt_too_long';
        result.detail := jsonb_build_object('tokens_needed', needed);
        RETURN result;
    END IF;
    reserved := needed;
    IF (p_submission ? 'cache' OR coalesce(p_key_max_age, m.cache_max_age, plan.cache_max_age) > 0)
       AND p_submission ? 'question' AND NOT p_submission ? 'not_before'
    THEN
        look := cache_look(plan.user_id, p_key_id, coalesce(p_key_max_age, m.cache_max_age, plan.cache_max_age), m,
                           p_submission, completion);
        is_hit := coalesce(look.said = 'hit', false);
        IF is_hit THEN
            -- No model is called.
            reserved := 0;
            completions := 0;
            model_ids := ARRAY[m.model_id];
        END IF;
    END IF;

    IF p_submission ? 'window' THEN
        patience := completion_window(p_submission->>'window');
    END IF;
    IF p_submission ?| '{quote,max_cost}' THEN
        result.quoted := quote_make(plan, m, model_ids, reserved, completion, repairs,
                                    (p_submission->>'not_before')::timestamptz, look, patience.name);
    END IF;

    result.request_id := request_id_now();
    LOOP
        at := uuid_extract_timestamp(result.request_id);
        -- Unfinished requests are counted separately, because each count has its own index; each stops at the limit.
        SELECT bool_and(quota_fits(q, at, reserved)) AND count(*) = cardinality(quota_periods()) AS fits,
               bool_or(at >= q.reset_at) AS is_reset,
               CASE WHEN plan.has_budgets THEN greatest(max(q.period_start), budgets_counted_from(plan.user_id))
                    ELSE max(q.period_start) END AS counted_from,
               (SELECT count(*) FROM (
                   SELECT FROM inflight i WHERE i.user_id = plan.user_id AND i.dispatched_at IS NOT NULL
                   LIMIT plan.max_unfinished) AS counted) AS dispatched,
               -- All that wait, and those of them that are not of the waiting class.
               (SELECT ARRAY[count(*), count(*) FILTER (WHERE counted.priority = 0)] FROM (
                   SELECT i.priority FROM inflight i WHERE i.user_id = plan.user_id AND i.dispatched_at IS NULL
                   LIMIT plan.max_unfinished) AS counted) AS waiting
        INTO room
        FROM quotas q WHERE q.user_id = plan.user_id;
        EXIT WHEN (at < room.counted_from) IS NOT TRUE;
        -- The clock was set back. The time must not lie before the current periods of the counters: settlement would
        -- miss them, and the reservation would never be given back.
        result.request_id := uuidv7(room.counted_from - clock_timestamp() + interval '1 millisecond');
    END LOOP;

    IF p_submission ?| '{not_before,expires_at,ttl_seconds,window}' THEN
        life := lifetime_resolve(at, p_submission, patience.length);
        IF life.refusal IS NOT NULL THEN
            result.outcome := 'lifetime_invalid';
            result.detail := jsonb_build_object(
                'longest_seconds', (p_submission->>'longest_seconds')::integer, 'why', life.refusal);
            RETURN result;
        END IF;
    ELSE
        life := (at, at + make_interval(secs => (p_submission->>'longest_seconds')::integer), NULL);
    END IF;
    IF patience.name IS NOT NULL THEN
        due := coalesce((p_submission->>'due_at')::timestamptz, life.begins_at + patience.length);
        SELECT w.priority, w.promote_at INTO urgency, promotion FROM window_waiting(patience.name, due, at) AS w;
    END IF;

    IF NOT room.fits THEN
        quota := quota_check(plan.user_id, at, reserved);
        result.outcome := quota.refusal;
        result.detail := quota.detail;
        RETURN result;
    END IF;

    IF plan.has_budgets THEN
        LOOP
            budget := budget_check(plan.user_id, p_key_id, model_ids, at, reserved - completions, completions,
                                   is_hit::integer, patience.name);
            EXIT WHEN budget.refusal IS NULL OR cardinality(model_ids) = 1;
            -- Perhaps there is room without the fallbacks.
            model_ids := trim_array(model_ids, 1);
            SELECT max(tokens_most(t, p_submission->'input', completion, repairs)) INTO reserved
            FROM models t WHERE t.model_id = ANY (model_ids);
        END LOOP;
        IF budget.refusal IS NOT NULL THEN
            result.outcome := budget.refusal;
            result.detail := budget.detail;
            RETURN result;
        END IF;
        IF result.quoted IS NOT NULL AND cardinality(model_ids) < jsonb_array_length(result.quoted->'models') THEN
            result.quoted := quote_make(plan, m, model_ids, reserved, completion, repairs,
                                        (p_submission->>'not_before')::timestamptz, look, patience.name);
        END IF;
    END IF;

    IF p_submission ? 'max_cost' THEN
        IF result.quoted #>> '{bound,amount}' IS NULL THEN
            result.outcome := 'model_unpriced';
            result.detail := jsonb_build_object('price_list', result.quoted->>'price_list');
            RETURN result;
        ELSIF (result.quoted #>> '{bound,amount}')::numeric > (p_submission->>'max_cost')::numeric THEN
            result.outcome := 'max_cost_exceeded';
            result.detail := jsonb_build_object(
                'max_cost', p_submission->>'max_cost', 'amount_needed', result.quoted #>> '{bound,amount}',
                'currency', result.quoted->>'currency');
            RETURN result;
        END IF;
    END IF;

    IF room.dispatched + room.waiting[1] >= plan.max_unfinished AND NOT is_hit THEN
        result.outcome := 'unfinished_exceeded';
        result.detail := jsonb_build_object(
            'quotas', quota_counters(plan.user_id, at), 'max_unfinished', plan.max_unfinished,
            -- Until the first of them is likely to end.
            'retry_after', ceil(extract(epoch FROM reservations_wait(
                plan.user_id, at, tokens_reserved_since(plan.user_id, '-infinity'), 1))));
        RETURN result;
    END IF;

    -- Accepted. From here on everything is written, and nothing is refused.
    result.outcome := 'accepted';
    IF p_submission ? 'quote' THEN
        RETURN result;
    END IF;
    IF room.is_reset THEN
        PERFORM quota_reset(plan.user_id, at);
    END IF;
    IF plan.has_budgets THEN
        PERFORM budget_store(budget.counters);
    END IF;
    IF due IS NOT NULL AND NOT plan.has_windows THEN
        UPDATE quota_plans p SET has_windows = true WHERE p.user_id = plan.user_id;
    END IF;
    p_may_dispatch := p_may_dispatch
        AND room.dispatched < CASE WHEN urgency = 0 THEN plan.dispatch_window ELSE waiting_window(plan) END;
    WITH booked AS (
        UPDATE quotas q SET requests_used = q.requests_used + 1, tokens_reserved = q.tokens_reserved + reserved
        WHERE q.user_id = plan.user_id
        RETURNING quota_counter(q, at) AS counter
    )
    SELECT jsonb_build_object('quotas', jsonb_agg(b.counter)) INTO result.detail FROM booked b;
    IF look.said IS NOT NULL THEN
        result.detail := result.detail || jsonb_build_object('cache', jsonb_strip_nulls(jsonb_build_object(
            'said', look.said, 'age', greatest(floor(extract(epoch FROM at - look.answered_at)), 0))));
    END IF;

    INSERT INTO requests
        (request_id, user_id, key_id, model_id, created_at, updated_at, estimated_tokens, reserved_tokens,
         completion_window, due_at)
    VALUES (result.request_id, plan.user_id, p_key_id, m.model_id, at, at,
            -- For people: about four bytes per token, and the whole completion.
            least((bytes + 3) / 4 + m.overhead_tokens + completion, reserved), reserved, patience.name, due);

    INSERT INTO prompts (request_id, input, parameters, metadata, surface, handling)
    VALUES (result.request_id, coalesce(p_submission->'beginning', p_submission->'input'),
            coalesce(nullif(p_submission->'parameters', 'null'), '{}')
                || CASE WHEN m.kind IN ('chat', 'image')
                        THEN jsonb_build_object('max_tokens', completion) ELSE '{}' END,
            nullif(p_submission->'metadata', 'null'), p_submission->'surface',
            CASE WHEN repairs > 0 OR cardinality(model_ids) > 1 OR result.quoted IS NOT NULL
                      OR p_submission ? 'webhook' THEN
                jsonb_strip_nulls(jsonb_build_object(
                    'fallbacks', nullif(to_jsonb(model_ids[2:]), '[]'), 'repair_attempts', nullif(repairs, 0),
                    'quote', result.quoted, 'webhook', p_submission->'webhook')) END);
    IF p_submission ? 'stored' THEN
        PERFORM object_keep(p_submission->'stored', result.request_id);
    END IF;
    IF p_submission ? 'webhook' THEN
        PERFORM webhook_own_ensure(plan.user_id);
    END IF;

    IF is_hit THEN
        PERFORM answer_again(result.request_id, plan.user_id, p_key_id, m.model_id, p_actor, at, look,
                             patience.name, due);
        IF plan.has_budgets THEN
            PERFORM budget_settle(ARRAY[result.request_id]);
        END IF;
        IF plan.has_webhooks OR p_submission ? 'webhook' THEN
            PERFORM webhooks_note(ARRAY[result.request_id], at);
        END IF;
        IF p_submission->>'idempotency_key' IS NOT NULL THEN
            PERFORM idempotency_keep(plan.user_id, p_submission, result.request_id, at);
        END IF;
        result.detail := result.detail || '{"status": "completed"}';
        RETURN result;
    END IF;

    -- If no other request of the user waits before it and the dispatch window has room, it is dispatched at once.
    -- Otherwise it waits.
    is_first := room.waiting[CASE urgency WHEN 0 THEN 2 ELSE 1 END] = 0;
    INSERT INTO inflight
        (request_id, user_id, max_attempts, dispatched_at, not_before, expires_at, fingerprint, cache_scope, follows,
         has_webhook, batch_id, priority, promote_at)
    VALUES (result.request_id, plan.user_id, (p_submission->>'max_attempts')::smallint,
            CASE WHEN p_may_dispatch AND is_first AND life.begins_at <= at AND look.leader_id IS NULL
                      AND (urgency = 0 OR waiting_slots(plan, room.dispatched) > 0)
                 THEN at END,
            CASE WHEN life.begins_at > at THEN life.begins_at END, life.expires_at, look.fingerprint, look.cache_scope,
            look.leader_id, CASE WHEN p_submission ? 'webhook' THEN true END, (p_submission->>'batch_id')::uuid,
            urgency, promotion)
    RETURNING CASE WHEN dispatched_at IS NULL THEN '{}' ELSE ARRAY[request_id] END INTO result.send;

    INSERT INTO audit_log (actor, action, user_id, key_id, request_id, after)
    VALUES (p_actor, 'request.queued', plan.user_id, p_key_id, result.request_id,
            jsonb_build_object('status', 'queued', 'model_id', m.model_id, 'reserved_tokens', reserved)
                || window_facts(patience.name, due));

    IF look.leader_id IS NOT NULL THEN
        is_first := NOT flight_hurry(look.leader_id, urgency, promotion) AND is_first;
    ELSIF look.fingerprint IS NOT NULL THEN
        PERFORM flight_begin(plan.user_id, m.model_id, result.request_id, look);
    END IF;
    IF p_may_dispatch AND NOT is_first THEN
        result.send := ARRAY(SELECT w.request_id FROM dispatch_waiting(ARRAY[plan.user_id], plan.dispatch_window) AS w);
    END IF;
    IF p_submission->>'idempotency_key' IS NOT NULL THEN
        PERFORM idempotency_keep(plan.user_id, p_submission, result.request_id, at);
    ELSIF p_submission ? 'repeat' THEN
        PERFORM repeat_keep(plan.user_id, p_submission, result.request_id, at);
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION request_admit IS
    'accepted; replayed (the idempotency key was used before, or this is a repeat; detail has the status of that '
    'request); or a refusal: model_missing, model_unknown, model_not_allowed, model_kind_differs, images_not_taken, '
    'max_tokens_exceeded, prompt_too_long, user_inactive, idempotency_conflict, lifetime_invalid, max_cost_exceeded, '
    'quota_too_small (can never fit), quota_exceeded, model_unpriced, budget_currency_differs, budget_too_small, '
    'budget_exceeded, unfinished_exceeded. send: requests of the user whose messages the caller should send now.';

-- The most tokens that a request may reserve: an integer holds them, and what a model may report beyond them.
CREATE OR REPLACE FUNCTION reservation_most() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 2147000000;

-- The most that the worker adds to a conversation when it asks again, beside the model's own answer: two messages with
-- so many bytes of text. The same as sluice.services.repair.
CREATE OR REPLACE FUNCTION repair_bytes() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 1024;

-- The steps -----------------------------------------------------------------------------------------------------------

-- The most tokens that all calls of a model for a request can use. Of its own answer, the model is given back as many
-- bytes as max_tokens says, so that these are no more tokens.
CREATE OR REPLACE FUNCTION tokens_most(m models, p_input jsonb, p_max_tokens integer, p_repairs integer) RETURNS bigint
    LANGUAGE sql STABLE
    RETURN (SELECT (1 + p_repairs) * (c.prompt + p_max_tokens)
                   + p_repairs * (p_max_tokens + repair_bytes() + 2 * m.item_tokens)
            FROM (SELECT input_bytes(p_input)::bigint + m.overhead_tokens
                         + input_extra_items(p_input)::bigint * m.item_tokens
                         + input_image_count(p_input)::bigint * coalesce(m.image_tokens, 0) AS prompt) AS c);

-- The reverse: the most tokens that the prompt of a request can have which has reserved so many.
CREATE OR REPLACE FUNCTION prompt_most(m models, p_reserved integer, p_max_tokens integer, p_repairs integer)
    RETURNS integer
    LANGUAGE sql STABLE
    RETURN greatest((p_reserved - p_repairs * (p_max_tokens + repair_bytes() + 2 * m.item_tokens)) / (1 + p_repairs)
                    - p_max_tokens, 0);

-- Ends a request, as it is accepted, with an answer from the cache.
CREATE OR REPLACE FUNCTION answer_again(
    p_request_id uuid, p_user_id text, p_key_id uuid, p_model_id text, p_actor text, p_at timestamptz,
    p_look cache_look_up, p_window text, p_due_at timestamptz
)
    RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE requests r SET
        status = 'completed', completed_at = p_at, prompt_tokens = 0, completion_tokens = 0, total_tokens = 0,
        result_id = p_look.result_id, finish_reason = p_look.finish_reason, cached_from = p_look.request_id
    WHERE r.request_id = p_request_id;
    INSERT INTO audit_log (actor, action, user_id, key_id, request_id, before, after)
    VALUES (p_actor, 'request.queued', p_user_id, p_key_id, p_request_id, NULL,
            jsonb_build_object('status', 'queued', 'model_id', p_model_id, 'reserved_tokens', 0)
                || window_facts(p_window, p_due_at)),
           (p_actor, 'request.cached', p_user_id, p_key_id, p_request_id, '{"status": "queued"}',
            jsonb_strip_nulls(jsonb_build_object(
                'status', 'completed', 'cached_from', p_look.request_id, 'prompt_tokens', 0, 'completion_tokens', 0,
                'finish_reason', p_look.finish_reason,
                'window_kept', window_kept('completed', p_at, p_due_at))));
END $$;

-- The models that may answer in another's place: those that the client names, or else the model's own.
-- What the client names must be able to answer; of the model's own, those that cannot are left out.
CREATE OR REPLACE FUNCTION fallbacks_find(
    m models, p_submission jsonb, p_key_models text[], p_max_tokens integer, OUT model_ids text[], OUT refusal text,
    OUT detail jsonb
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    is_own constant boolean := NOT p_submission ? 'fallbacks';
    name   text;
    f      models;
BEGIN
    model_ids := '{}';
    FOR name IN
        SELECT unnest(m.fallbacks) WHERE is_own
        UNION ALL
        SELECT jsonb_array_elements_text(p_submission->'fallbacks') WHERE NOT is_own
    LOOP
        SELECT t.* INTO f FROM models t WHERE t.is_active AND t.model_id = coalesce(
            (SELECT a.model_id FROM model_aliases a WHERE a.alias = name), name);
        refusal := CASE
            WHEN f.model_id IS NULL THEN 'model_unknown'
            WHEN f.model_id <> ALL (p_key_models) THEN 'model_not_allowed'
            -- Vectors of two models cannot be compared with each other.
            WHEN f.kind <> m.kind OR m.kind <> 'chat' THEN 'model_kind_differs'
            WHEN p_max_tokens > f.max_tokens_limit THEN 'max_tokens_exceeded'
            WHEN f.image_tokens IS NULL AND input_image_count(p_submission->'input') > 0 THEN 'images_not_taken' END;
        IF refusal IS NULL THEN
            IF f.model_id <> ALL (m.model_id || model_ids) THEN
                model_ids := model_ids || f.model_id::text;
            END IF;
        ELSIF is_own THEN
            refusal := NULL;
        ELSE
            detail := jsonb_build_object('model', name, 'max_tokens_limit', f.max_tokens_limit);
            RETURN;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION fallbacks_find(models, jsonb, text[], integer) IS
    'refusal: model_unknown, model_not_allowed, model_kind_differs, max_tokens_exceeded, images_not_taken, or NULL.';

-- Whether the key of a request counts that ended at this time; NULL: it is unfinished.
CREATE OR REPLACE FUNCTION idempotency_counts(p_completed_at timestamptz) RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN p_completed_at IS NULL OR p_completed_at + interval '24 hours' > clock_now();

-- Whether the submission's idempotency key was used before: replayed, idempotency_conflict (with another body) or NULL.
-- status: what has become of the first request.
CREATE OR REPLACE FUNCTION idempotency_find(
    p_user_id text, p_submission jsonb, OUT outcome text, OUT request_id uuid, OUT status text
)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    earlier idempotency_keys;
    first   record;
BEGIN
    SELECT * INTO earlier FROM idempotency_keys k
    WHERE k.user_id = p_user_id AND k.key = p_submission->>'idempotency_key';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT r.status, r.completed_at INTO first FROM requests_all r WHERE r.request_id = earlier.request_id;
    IF FOUND AND idempotency_counts(first.completed_at) THEN
        outcome := CASE WHEN earlier.body_hash = decode(p_submission->>'body_hash', 'hex')
                        THEN 'replayed' ELSE 'idempotency_conflict' END;
        request_id := earlier.request_id;
        status := first.status;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION idempotency_keep(p_user_id text, p_submission jsonb, p_request_id uuid, p_at timestamptz)
    RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO idempotency_keys AS k (user_id, key, body_hash, request_id, expires_at)
    VALUES (p_user_id, p_submission->>'idempotency_key', decode(p_submission->>'body_hash', 'hex'), p_request_id,
            p_at + interval '24 hours')
    ON CONFLICT (user_id, key) DO UPDATE
    SET body_hash = EXCLUDED.body_hash, request_id = EXCLUDED.request_id, expires_at = EXCLUDED.expires_at;
END $$;

-- The lifetime: the time during which a request may be started. refusal says what is wrong: begins_late, ends_past,
-- ends_early, ends_late.
CREATE OR REPLACE FUNCTION lifetime_resolve(p_at timestamptz, p_submission jsonb, p_window interval) RETURNS lifetime
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- Whoever may wait for so long lives for so long.
    longest interval := greatest(make_interval(secs => (p_submission->>'longest_seconds')::integer), p_window);
    ttl     interval := make_interval(secs => (p_submission->>'ttl_seconds')::integer);
    life    lifetime;
BEGIN
    life.begins_at := greatest(p_at, (p_submission->>'not_before')::timestamptz);
    life.expires_at := coalesce((p_submission->>'expires_at')::timestamptz, life.begins_at + coalesce(ttl, longest));
    life.refusal := CASE
        WHEN life.begins_at > p_at + longest THEN 'begins_late'
        WHEN life.expires_at <= p_at THEN 'ends_past'
        WHEN life.expires_at <= life.begins_at THEN 'ends_early'
        WHEN life.expires_at > life.begins_at + longest THEN 'ends_late' END;
    RETURN life;
END $$;
