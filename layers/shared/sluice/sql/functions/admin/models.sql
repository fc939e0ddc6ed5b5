-- Administrative operations on models.

-- Every model with today's prices from the standard list: per million tokens, by token class.
CREATE OR REPLACE VIEW model_registry AS
    SELECT m.*, coalesce(p.prices, '{}') AS prices
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
    prices jsonb, created_at timestamptz, updated_at timestamptz
$$);

CREATE OR REPLACE FUNCTION model_list() RETURNS SETOF model_view
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT m.model_id::text, m.backend::text, m.backend_model::text, m.endpoint, m.secret_arn, m.max_tokens_default,
           m.max_tokens_limit, m.overhead_tokens, m.timeout_seconds, m.is_default, m.is_active, m.prices, m.created_at,
           m.updated_at
    FROM model_registry m ORDER BY m.model_id;
$$;
COMMENT ON FUNCTION model_list() IS 'Every model, active or not, with its current prices in the standard list.';

-- Makes a model or replaces its whole description. If it becomes the default, the previous default loses that mark. A
-- price that differs from today's applies from today on.
CREATE OR REPLACE FUNCTION model_set(p_description jsonb, p_actor text) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    d      models := jsonb_populate_record(NULL::models, p_description);
    before jsonb;
    after  jsonb;
BEGIN
    PERFORM set_config('sluice.actor', p_actor, true);
    -- One at a time: two calls that each set a new default would not see, and so not clear, the other's default.
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    SELECT to_jsonb(m) INTO before FROM model_registry m WHERE m.model_id = d.model_id;
    IF d.is_default THEN
        UPDATE models m SET is_default = false, updated_at = clock_now()
        WHERE m.is_default AND m.model_id <> d.model_id;
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
    PERFORM price_put('standard', d.model_id, p.key, utc_today(), p.value::numeric)
    FROM jsonb_each_text(coalesce(p_description->'prices', '{}')) AS p;

    SELECT to_jsonb(m) INTO after FROM model_registry m WHERE m.model_id = d.model_id;
    PERFORM admin_audit('model.set', NULL, NULL, before, after);
    RETURN after;
END $$;

CREATE OR REPLACE FUNCTION admin_model_set(a jsonb) RETURNS jsonb
    LANGUAGE sql
    RETURN model_set(a, 'admin');
