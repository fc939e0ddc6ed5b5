-- Objects: what is too large for the database, and is kept in the bucket (see the table objects).

-- What the service knows of an object, as its functions give and take it: with the names of domain/objects.py.
CREATE OR REPLACE FUNCTION object_json(p_object_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'object_id', o.object_id, 'object_class', o.object_class, 'user_id', o.user_id, 'mime_type', o.mime_type,
        'byte_length', o.byte_length, 'sha256', encode(o.sha256, 'hex'), 'version_id', o.version_id)
    FROM objects o WHERE o.object_id = p_object_id AND o.deleted_at IS NULL;
$$;

CREATE OR REPLACE FUNCTION object_keep(p_stored jsonb, p_request_id uuid) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO objects (
        object_id, object_class, user_id, request_id, key, mime_type, byte_length, sha256, version_id, created_at)
    SELECT (p_stored->>'object_id')::uuid, p_stored->>'object_class', p_stored->>'user_id', p_request_id,
           p_stored->>'key',
           p_stored->>'mime_type', (p_stored->>'byte_length')::bigint, decode(p_stored->>'sha256', 'hex'),
           p_stored->>'version_id', clock_now();
$$;
COMMENT ON FUNCTION object_keep(jsonb, uuid) IS 'Writes the row of an object that was written to the bucket just now.';

-- The sweep -----------------------------------------------------------------------------------------------------------

CALL define_type('doomed_object', $$object_id uuid, key text, version_id text$$);

CREATE OR REPLACE FUNCTION objects_doomed(p_limit integer) RETURNS SETOF doomed_object
    LANGUAGE sql SECURITY DEFINER STABLE AS $$
    SELECT o.object_id, o.key, o.version_id FROM objects o
    WHERE o.deleted_at IS NOT NULL ORDER BY o.deleted_at LIMIT p_limit;
$$;
COMMENT ON FUNCTION objects_doomed(integer) IS 'Objects that nothing refers to any more, the oldest first.';

CREATE OR REPLACE FUNCTION objects_forget(p_ids uuid[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    forgotten integer;
BEGIN
    DELETE FROM objects o WHERE o.object_id = ANY (p_ids) AND o.deleted_at IS NOT NULL;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END $$;
COMMENT ON FUNCTION objects_forget(uuid[]) IS 'Forgets objects that were deleted from the bucket; returns how many.';

CREATE OR REPLACE FUNCTION object_sweep_begin() RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE object_sweep s SET began_at = clock_now() WHERE s.after_key IS NULL;
    RETURN (SELECT s.after_key FROM object_sweep s);
END $$;
COMMENT ON FUNCTION object_sweep_begin() IS 'The key after which to go on comparing; NULL: from the beginning.';

-- A part of the bucket's list, which has every version of every key after p_after up to and with p_upto (NULL: to the
-- end), is compared with the rows. What was written after the list was read is not in it: a row that is younger than
-- p_grace_seconds is not missed.
CALL define_type('object_comparison', $$unknown integer[], missing integer$$);

CREATE OR REPLACE FUNCTION objects_compare(
    p_after text, p_upto text, p_keys text[], p_versions text[], p_are_current boolean[], p_grace_seconds integer
)
    RETURNS object_comparison
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at     timestamptz := clock_now();
    result object_comparison;
BEGIN
    result.unknown := ARRAY(
        SELECT f.position FROM unnest(p_keys, p_versions) WITH ORDINALITY AS f (key, version_id, position)
        WHERE NOT EXISTS (SELECT FROM objects o
                          WHERE o.key = f.key COLLATE "C" AND o.version_id IS NOT DISTINCT FROM f.version_id));
    WITH looked AS MATERIALIZED (
        SELECT o.object_id, f.key IS NOT NULL AS is_there
        FROM objects o
        LEFT JOIN unnest(p_keys, p_versions, p_are_current) AS f (key, version_id, is_current)
            ON f.key COLLATE "C" = o.key AND f.version_id IS NOT DISTINCT FROM o.version_id AND f.is_current
        WHERE (p_after IS NULL OR o.key > p_after) AND (p_upto IS NULL OR o.key <= p_upto)
          AND o.deleted_at IS NULL AND o.created_at < at - make_interval(secs => p_grace_seconds)
    ), changed AS (
        UPDATE objects o SET missing_at = CASE WHEN NOT l.is_there THEN at END
        FROM looked l
        WHERE o.object_id = l.object_id AND (o.missing_at IS NULL) <> l.is_there
        RETURNING o.object_id, o.user_id, o.missing_at
    ), audited AS (
        INSERT INTO audit_log (actor, action, user_id, after)
        SELECT 'rollup', CASE WHEN c.missing_at IS NULL THEN 'object.found' ELSE 'object.missing' END, c.user_id,
               jsonb_build_object('object_id', c.object_id)
        FROM changed c
    )
    SELECT count(*) FILTER (WHERE c.missing_at IS NOT NULL) INTO result.missing FROM changed c;
    UPDATE object_sweep s
    SET after_key = p_upto, finished_at = CASE WHEN p_upto IS NULL THEN at ELSE s.finished_at END;
    RETURN result;
END $$;
COMMENT ON FUNCTION objects_compare(text, text, text[], text[], boolean[], integer) IS
    'Compares a part of the bucket''s list with the rows. unknown: the positions, from 1, of versions without a row; '
    'missing: how many rows were found to have no object, or one that is not current and will be removed, which '
    'ledger_verify() reports from then on.';
