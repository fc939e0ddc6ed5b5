-- Administrative acts on models and prices.

-- Prices with the day on which each ends: that on which the next one of its list, model and class begins.
CREATE OR REPLACE VIEW price_registry AS
    SELECT p.price_list, l.currency, p.model_id, p.token_class, trim_scale(p.price_per_million) AS price_per_million, p.valid_from,
           lead(p.valid_from) OVER (PARTITION BY p.price_list, p.model_id, p.token_class ORDER BY p.valid_from) AS valid_until
    FROM prices p JOIN price_lists l ON l.price_list = p.price_list;

-- Every model with the prices of today in the standard list, per million tokens by class.
CREATE OR REPLACE VIEW model_registry AS
    SELECT m.*, coalesce(p.prices, '{}') AS prices
    FROM models m
    LEFT JOIN LATERAL (
        SELECT jsonb_object_agg(r.token_class, r.price_per_million::text) AS prices
        FROM price_registry r
        WHERE r.model_id = m.model_id AND r.price_list = 'standard'
          AND r.valid_from <= (clock_now() AT TIME ZONE 'UTC')::date
          AND coalesce(r.valid_until, 'infinity') > (clock_now() AT TIME ZONE 'UTC')::date
    ) AS p ON true;

CREATE OR REPLACE FUNCTION price_put(list text, model text, class text, from_day date, price numeric) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    today date := (clock_now() AT TIME ZONE 'UTC')::date;
    old   prices;
BEGIN
    SELECT * INTO old FROM prices p
    WHERE p.price_list = list AND p.model_id = model AND p.token_class = class AND p.valid_from <= from_day
    ORDER BY p.valid_from DESC LIMIT 1;
    IF old.price_per_million = price THEN
        RETURN;
    END IF;
    IF from_day < today AND old.valid_from IS NOT NULL THEN
        -- What days that are over cost may have been billed: another list may price them again.
        RAISE EXCEPTION 'priced already' USING ERRCODE = 'SL422', CONSTRAINT = 'price_in_past';
    END IF;
    INSERT INTO prices (price_list, model_id, token_class, valid_from, price_per_million)
    VALUES (list, model, class, from_day, price)
    ON CONFLICT (price_list, model_id, token_class, valid_from) DO UPDATE SET price_per_million = EXCLUDED.price_per_million;
    PERFORM audit_act('price.set', NULL, NULL,
        CASE WHEN old.valid_from IS NOT NULL THEN
            jsonb_build_object('price_per_million', trim_scale(old.price_per_million)::text, 'valid_from', old.valid_from) END,
        jsonb_build_object('price_list', list, 'model_id', model, 'token_class', class,
                           'price_per_million', trim_scale(price)::text, 'valid_from', from_day));
END $$;

CREATE OR REPLACE FUNCTION act_price_set(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    list text := a->>'price_list';
    day  date := coalesce((a->>'valid_from')::date, (clock_now() AT TIME ZONE 'UTC')::date);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    IF NOT EXISTS (SELECT FROM models m WHERE m.model_id = a->>'model_id') THEN
        RAISE EXCEPTION 'no such model' USING ERRCODE = 'SL422', CONSTRAINT = 'model_unknown';
    END IF;
    INSERT INTO price_lists (price_list, currency, created_at) VALUES (list, coalesce(a->>'currency', 'USD'), clock_now())
    ON CONFLICT (price_list) DO NOTHING;
    IF (SELECT l.currency <> a->>'currency' FROM price_lists l WHERE l.price_list = list) THEN
        RAISE EXCEPTION 'another currency' USING ERRCODE = 'SL422', CONSTRAINT = 'currency_differs';
    END IF;
    PERFORM price_put(list, a->>'model_id', c.class, day, (a->>c.class)::numeric)
    FROM unnest(ARRAY['prompt', 'completion']) AS c (class) WHERE a->>c.class IS NOT NULL;
    RETURN (SELECT jsonb_agg(to_jsonb(r) || jsonb_build_object('price_per_million', r.price_per_million::text)
                             ORDER BY r.token_class DESC, r.valid_from)
            FROM price_registry r WHERE r.price_list = list AND r.model_id = a->>'model_id');
END $$;

-- The whole description of a model, made or replaced. Making one the default takes that from the one that was; a price
-- that differs from today's holds from today on.
CREATE OR REPLACE FUNCTION model_set(description jsonb, by_actor text) RETURNS SETOF model_registry
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    d      models := jsonb_populate_record(NULL::models, description);
    before jsonb;
    kept   model_registry;
BEGIN
    PERFORM set_config('sluice.actor', by_actor, true);
    -- One at a time: two new defaults at once would each leave the other's in place.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    SELECT to_jsonb(m) INTO before FROM model_registry m WHERE m.model_id = d.model_id;
    IF d.is_default THEN
        UPDATE models m SET is_default = false, updated_at = clock_now() WHERE m.is_default AND m.model_id <> d.model_id;
    END IF;
    INSERT INTO models AS m
        (model_id, backend, backend_model, endpoint, secret_arn, max_tokens_default, max_tokens_limit,
         overhead_tokens, timeout_seconds, is_default, is_active)
    VALUES (d.model_id, d.backend, d.backend_model, d.endpoint, d.secret_arn, d.max_tokens_default, d.max_tokens_limit,
            d.overhead_tokens, d.timeout_seconds, d.is_default, d.is_active)
    ON CONFLICT (model_id) DO UPDATE SET
        backend = EXCLUDED.backend, backend_model = EXCLUDED.backend_model, endpoint = EXCLUDED.endpoint,
        secret_arn = EXCLUDED.secret_arn, max_tokens_default = EXCLUDED.max_tokens_default,
        max_tokens_limit = EXCLUDED.max_tokens_limit, overhead_tokens = EXCLUDED.overhead_tokens,
        timeout_seconds = EXCLUDED.timeout_seconds, is_default = EXCLUDED.is_default,
        is_active = EXCLUDED.is_active, updated_at = clock_now();
    PERFORM price_put('standard', d.model_id, p.key, (clock_now() AT TIME ZONE 'UTC')::date, p.value::numeric)
    FROM jsonb_each_text(coalesce(description->'prices', '{}')) AS p;

    SELECT * INTO kept FROM model_registry m WHERE m.model_id = d.model_id;
    PERFORM audit_act('model.set', NULL, NULL, before, to_jsonb(kept));
    RETURN NEXT kept;
END $$;
