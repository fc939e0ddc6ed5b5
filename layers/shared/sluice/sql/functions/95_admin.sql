-- Administrative acts: each with its audit row in the same commit.

CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE OR REPLACE TRIGGER audit_never_truncated BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();

CREATE OR REPLACE FUNCTION user_create(new_id text, new_name text, new_email text, tier text)
    RETURNS TABLE (user_id text, name text, email text, tier_name text, is_active boolean, created_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at timestamptz := clock_now();
BEGIN
    INSERT INTO users (user_id, name, email, created_at, updated_at) VALUES (new_id, new_name, new_email, at, at);
    INSERT INTO quota_plans (user_id, tier, reset_frequency, max_unfinished, dispatch_window)
    SELECT new_id, t.tier, t.reset_frequency, t.max_unfinished, t.dispatch_window
    FROM tiers t WHERE t.tier = user_create.tier;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no tier %', user_create.tier USING ERRCODE = 'SL422', CONSTRAINT = 'tier_unknown';
    END IF;
    INSERT INTO quotas (user_id, quota_period, max_requests, max_tokens, period_start, reset_at)
    SELECT new_id, p.name, l.max_requests, l.max_tokens, period_start(p.name, at), period_end(p.name, at)
    FROM unnest(ARRAY['minute', 'daily', 'monthly']) AS p (name)
    LEFT JOIN tier_limits l ON l.tier = user_create.tier AND l.quota_period = p.name;
    INSERT INTO audit_log (actor, action, user_id, after)
    VALUES ('admin', 'user.created', new_id, jsonb_build_object('tier', user_create.tier));
    RETURN QUERY SELECT new_id, new_name, new_email, user_create.tier, true, at;
END $$;

CREATE OR REPLACE FUNCTION key_create(
    for_user text, hash bytea, prefix text, key_name text, key_scopes text[], key_expires_at timestamptz
)
    RETURNS TABLE (key_id uuid, user_id text, key_prefix text, name text, scopes text[], created_at timestamptz, expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    k api_keys;
BEGIN
    INSERT INTO api_keys (user_id, key_hash, key_prefix, name, scopes, created_at, expires_at)
    VALUES (for_user, hash, prefix, key_name, key_scopes, clock_now(), key_expires_at)
    RETURNING * INTO k;
    INSERT INTO audit_log (actor, action, user_id, key_id, after)
    VALUES ('admin', 'key.created', for_user, k.key_id,
            jsonb_build_object('key_prefix', prefix, 'scopes', to_jsonb(key_scopes), 'expires_at', key_expires_at));
    RETURN QUERY SELECT k.key_id, k.user_id::text, k.key_prefix::text, k.name::text, k.scopes::text[], k.created_at, k.expires_at;
END $$;

CREATE OR REPLACE FUNCTION key_revoke(id uuid)
    RETURNS TABLE (key_id uuid, user_id text, revoked_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    k api_keys;
BEGIN
    SELECT * INTO k FROM api_keys a WHERE a.key_id = id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF k.revoked_at IS NULL THEN
        k.revoked_at := clock_now();
        UPDATE api_keys a SET revoked_at = k.revoked_at WHERE a.key_id = id;
        INSERT INTO audit_log (actor, action, user_id, key_id, before, after)
        VALUES ('admin', 'key.revoked', k.user_id, id, jsonb_build_object('revoked_at', NULL),
                jsonb_build_object('revoked_at', k.revoked_at));
    END IF;
    RETURN QUERY SELECT k.key_id, k.user_id::text, k.revoked_at;
END $$;
COMMENT ON FUNCTION key_revoke(uuid) IS 'No row where there is no such key; a key revoked before keeps its first time.';

-- Every model with the prices that hold now, per million tokens by class.
CREATE OR REPLACE VIEW model_registry AS
    SELECT m.*, coalesce(p.prices, '{}') AS prices
    FROM models m
    LEFT JOIN LATERAL (
        SELECT jsonb_object_agg(c.token_class, c.price_per_million::text) AS prices
        FROM (SELECT DISTINCT ON (p.token_class) p.token_class, trim_scale(p.price_per_million) AS price_per_million
              FROM prices p
              WHERE p.model_id = m.model_id AND p.price_list = 'standard' AND p.valid_from <= clock_now()
              ORDER BY p.token_class, p.valid_from DESC) AS c
    ) AS p ON true;

-- The whole description of a model, made or replaced. Making one the default takes that from the one that was; a price
-- that differs from the current one holds from now on.
CREATE OR REPLACE FUNCTION model_set(description jsonb, by_actor text) RETURNS SETOF model_registry
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    d      models := jsonb_populate_record(NULL::models, description);
    before jsonb;
    kept   model_registry;
BEGIN
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

    INSERT INTO prices (model_id, token_class, valid_from, price_per_million)
    SELECT d.model_id, p.key, clock_now(), p.value::numeric
    FROM jsonb_each_text(coalesce(description->'prices', '{}')) AS p
    WHERE p.value::numeric IS DISTINCT FROM (before->'prices'->>p.key)::numeric;

    SELECT * INTO kept FROM model_registry m WHERE m.model_id = d.model_id;
    INSERT INTO audit_log (actor, action, before, after) VALUES (by_actor, 'model.set', before, to_jsonb(kept));
    RETURN NEXT kept;
END $$;
