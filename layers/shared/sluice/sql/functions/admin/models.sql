-- Administrative operations on models.

-- Every model with today's prices from the standard list: per million tokens, by token class. A view keeps the order of
-- its columns: new ones come last.
CREATE OR REPLACE VIEW model_registry AS
    SELECT m.model_id, m.backend, m.backend_model, m.endpoint, m.secret_arn, m.max_tokens_default, m.max_tokens_limit,
           m.overhead_tokens, m.timeout_seconds, m.is_default, m.is_active, m.created_at, m.updated_at,
           coalesce(p.prices, '{}') AS prices, m.kind, m.item_tokens, m.image_tokens, m.fallbacks, m.mapping,
           m.cache_max_age
    FROM models m
    LEFT JOIN LATERAL (
        SELECT jsonb_object_agg(r.token_class, r.price_per_million::text) AS prices
        FROM price_registry r
        WHERE r.model_id = m.model_id AND r.price_list = 'standard'
          AND r.valid_from <= utc_today() AND coalesce(r.valid_until, 'infinity') > utc_today()
    ) AS p ON true;

CALL define_type('model_view', $$
    model_id text, backend text, backend_model text, endpoint text, secret_arn text, max_tokens_default integer,
    max_tokens_limit integer, overhead_tokens integer, timeout_seconds integer, is_default boolean, is_active boolean,
    prices jsonb, created_at timestamptz, updated_at timestamptz, kind text, item_tokens integer, image_tokens integer,
    fallbacks text[], breaker jsonb, mapping jsonb, cache_max_age integer
$$);

CREATE OR REPLACE FUNCTION model_list() RETURNS SETOF model_view
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT m.model_id::text, m.backend::text, m.backend_model::text, m.endpoint, m.secret_arn, m.max_tokens_default,
           m.max_tokens_limit, m.overhead_tokens, m.timeout_seconds, m.is_default, m.is_active, m.prices, m.created_at,
           m.updated_at, m.kind::text, m.item_tokens, m.image_tokens, m.fallbacks::text[], breaker_json(m.model_id),
           m.mapping, m.cache_max_age
    FROM model_registry m ORDER BY m.model_id;
$$;
COMMENT ON FUNCTION model_list() IS
    'Every model, active or not, with its current prices in the standard list and the state of its circuit breaker.';

-- Makes a model, or changes those of its fields that are among the arguments; null clears one that is optional. If it
-- becomes the default, the previous default loses that mark. A price that differs from today's applies from today on.
-- Without `force`, the default is not taken away from requests that name no model. A model never changes its kind:
-- requests of the old kind may wait for it. Whatever is changed, its circuit breaker is closed.
CREATE OR REPLACE FUNCTION model_set(p_description jsonb, p_actor text) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id       text := p_description->>'model_id';
    old      models;
    new      models;
    before   jsonb;
    after    jsonb;
    replaced text;
    waiting  bigint;
    aliases  text;
    warnings text[] := '{}';
    -- SageMaker's own limit for an answer is 60 s; its guide wants clients to wait ten seconds longer.
    sagemaker_seconds CONSTANT integer := 70;
BEGIN
    PERFORM set_config('sluice.actor', p_actor, true);
    -- One at a time: two calls that each set a new default would not see, and so not clear, the other's default.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    SELECT to_jsonb(m) INTO before FROM model_registry m WHERE m.model_id = id;
    SELECT * INTO old FROM models m WHERE m.model_id = id;
    IF before IS NULL THEN
        IF NOT p_description ?& '{backend,backend_model}'
           OR (p_description->>'backend' = 'openai' AND p_description->>'endpoint' IS NULL) THEN
            PERFORM admin_refuse('model_incomplete');
        ELSIF EXISTS (SELECT FROM model_aliases a WHERE a.alias = id) THEN
            PERFORM admin_refuse('name_taken');
        END IF;
        old := jsonb_populate_record(NULL::models, '{"max_tokens_default": 256, "max_tokens_limit": 1024,
            "overhead_tokens": 64, "timeout_seconds": 60, "is_default": false, "is_active": true,
            "kind": "chat", "item_tokens": 16, "image_tokens": null, "fallbacks": []}');
    END IF;
    new := jsonb_populate_record(old, p_description);
    IF new.kind <> old.kind AND before IS NOT NULL THEN
        PERFORM admin_refuse('model_kind_fixed');
    END IF;

    IF new.is_default THEN
        UPDATE models m SET is_default = false, updated_at = clock_now()
        WHERE m.is_default AND m.model_id <> id
        RETURNING m.model_id INTO replaced;
        IF replaced IS NOT NULL THEN
            warnings := warnings || format('Requests that name no model go to %s instead of %s.', id, replaced);
        END IF;
    ELSIF old.is_default THEN
        IF p_description->'force' IS DISTINCT FROM 'true' THEN
            PERFORM admin_refuse('default_model_needed');
        END IF;
        warnings := warnings || 'Requests that name no model are refused: no model is the default.'::text;
    END IF;
    INSERT INTO models AS m
        (model_id, backend, backend_model, endpoint, secret_arn, max_tokens_default, max_tokens_limit,
         overhead_tokens, timeout_seconds, is_default, is_active, kind, item_tokens, image_tokens, fallbacks, mapping,
         cache_max_age)
    VALUES (id, new.backend, new.backend_model, new.endpoint, new.secret_arn, new.max_tokens_default,
            new.max_tokens_limit, new.overhead_tokens, new.timeout_seconds, new.is_default, new.is_active, new.kind,
            new.item_tokens, new.image_tokens, new.fallbacks, new.mapping, new.cache_max_age)
    ON CONFLICT (model_id) DO UPDATE SET
        backend = EXCLUDED.backend, backend_model = EXCLUDED.backend_model, endpoint = EXCLUDED.endpoint,
        secret_arn = EXCLUDED.secret_arn, max_tokens_default = EXCLUDED.max_tokens_default,
        max_tokens_limit = EXCLUDED.max_tokens_limit, overhead_tokens = EXCLUDED.overhead_tokens,
        timeout_seconds = EXCLUDED.timeout_seconds, is_default = EXCLUDED.is_default,
        is_active = EXCLUDED.is_active, kind = EXCLUDED.kind, item_tokens = EXCLUDED.item_tokens,
        image_tokens = EXCLUDED.image_tokens, fallbacks = EXCLUDED.fallbacks, mapping = EXCLUDED.mapping,
        cache_max_age = EXCLUDED.cache_max_age, updated_at = clock_now();
    PERFORM breaker_close(id, p_actor);
    IF (old.backend, old.backend_model, old.endpoint, old.mapping)
       IS DISTINCT FROM (new.backend, new.backend_model, new.endpoint, new.mapping)
    THEN
        -- It may answer in another way.
        PERFORM cache_forget(NULL, id);
    END IF;
    PERFORM price_put('standard', id, p.key, utc_today(), p.value::numeric)
    FROM jsonb_each_text(coalesce(p_description->'prices', '{}')) AS p;
    PERFORM budgets_reprice('standard', id);

    IF new.max_tokens_limit < old.max_tokens_limit AND before IS NOT NULL THEN
        warnings := warnings || format('Requests with max_tokens above %s are refused; until now %s were allowed.',
                                       new.max_tokens_limit, old.max_tokens_limit);
    END IF;
    IF new.backend = 'sagemaker' AND new.timeout_seconds > sagemaker_seconds THEN
        warnings := warnings || 'SageMaker ends a call after 60 s: more than 70 timeout_seconds have no effect.'::text;
    END IF;
    IF old.is_active AND NOT new.is_active AND before IS NOT NULL THEN
        SELECT count(*) INTO waiting
        FROM inflight i JOIN requests r ON r.request_id = i.request_id WHERE r.model_id = id;
        IF waiting > 0 THEN
            warnings := warnings || format('The %s unfinished requests for %s are still processed.', waiting, id);
        END IF;
        SELECT string_agg(a.alias, ', ' ORDER BY a.alias) INTO aliases FROM model_aliases a WHERE a.model_id = id;
        IF aliases IS NOT NULL THEN
            warnings := warnings || format('Requests for its other names are refused too: %s.', aliases);
        END IF;
    END IF;
    SELECT to_jsonb(m) INTO after FROM model_registry m WHERE m.model_id = id;
    PERFORM admin_audit('model.set', NULL, NULL, before, after);
    RETURN after || jsonb_build_object('warnings', to_jsonb(warnings));
END $$;

-- The models that answer in a model's place, in this order; none: nothing does.
CREATE OR REPLACE FUNCTION admin_model_fallback(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id     text := a->>'model_id';
    wanted text[] := ARRAY(SELECT jsonb_array_elements_text(a->'fallbacks'));
    m      models;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    SELECT * INTO m FROM models t WHERE t.model_id = id;
    IF NOT FOUND OR cardinality(wanted) > (SELECT count(*) FROM models t WHERE t.model_id = ANY (wanted)) THEN
        PERFORM admin_refuse('model_unknown');
    ELSIF id = ANY (wanted) OR m.kind <> 'chat' AND wanted <> '{}'
          OR EXISTS (SELECT FROM models t WHERE t.model_id = ANY (wanted) AND t.kind <> m.kind) THEN
        PERFORM admin_refuse('fallback_unfit');
    END IF;
    RETURN model_set(jsonb_build_object('model_id', id, 'fallbacks', to_jsonb(wanted)), 'admin');
END $$;

CREATE OR REPLACE FUNCTION admin_model_set(a jsonb) RETURNS jsonb
    LANGUAGE sql
    RETURN model_set(a, 'admin');
