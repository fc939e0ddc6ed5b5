-- Administrative operations on aliases: other names under which clients may ask for a model.

CALL define_type('alias_view', $$
    alias text, model_id text, is_active boolean, created_at timestamptz, updated_at timestamptz
$$);

CREATE OR REPLACE FUNCTION alias_list() RETURNS SETOF alias_view
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT a.alias::text, a.model_id::text, m.is_active, a.created_at, a.updated_at
    FROM model_aliases a JOIN models m ON m.model_id = a.model_id ORDER BY a.alias;
$$;
COMMENT ON FUNCTION alias_list() IS
    'Every alias. is_active: of its model; the alias of a model that is not offered means nothing.';

CREATE OR REPLACE FUNCTION alias_json(p_alias text) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(l) FROM alias_list() AS l WHERE l.alias = p_alias;
$$;

-- The lock of model_set: a name is never an alias and a model's id at the same time.
CREATE OR REPLACE FUNCTION admin_alias_set(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    name     text := a->>'alias';
    target   text := a->>'model_id';
    before   jsonb;
    after    jsonb;
    warnings text[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    IF EXISTS (SELECT FROM models m WHERE m.model_id = name) THEN
        PERFORM admin_refuse('name_taken');
    ELSIF NOT EXISTS (SELECT FROM models m WHERE m.model_id = target AND m.is_active) THEN
        PERFORM admin_refuse('model_unknown');
    END IF;
    before := alias_json(name);
    INSERT INTO model_aliases AS l (alias, model_id, created_at, updated_at)
    VALUES (name, target, clock_now(), clock_now())
    ON CONFLICT (alias) DO UPDATE SET model_id = EXCLUDED.model_id, updated_at = EXCLUDED.updated_at;
    after := alias_json(name);
    IF before->>'model_id' <> target THEN
        warnings := warnings || format('Requests for %s go to %s instead of %s.', name, target, before->>'model_id');
    END IF;
    PERFORM admin_audit('alias.set', NULL, NULL, before, after);
    RETURN after || jsonb_build_object('warnings', to_jsonb(warnings));
END $$;

CREATE OR REPLACE FUNCTION admin_alias_remove(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    removed jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    removed := alias_json(a->>'alias');
    IF removed IS NULL THEN
        PERFORM admin_refuse('alias_unknown');
    END IF;
    DELETE FROM model_aliases l WHERE l.alias = a->>'alias';
    PERFORM admin_audit('alias.removed', NULL, NULL, removed, NULL);
    RETURN removed;
END $$;
