-- Uploads: files that come in parts, each an object of its own until they are put together.

CREATE OR REPLACE FUNCTION upload_json(u uploads) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN to_jsonb(u) || jsonb_build_object('file', (SELECT file_json(f) FROM files f WHERE f.file_id = u.file_id));

-- Every end of an upload. Its parts are needed no more.
CREATE OR REPLACE FUNCTION upload_end(u uploads, p_status text, p_file_id uuid, p_at timestamptz) RETURNS uploads
    LANGUAGE plpgsql AS $$
BEGIN
    WITH gone AS (
        DELETE FROM upload_parts p WHERE p.upload_id = u.upload_id RETURNING p.object_id
    )
    UPDATE objects o SET deleted_at = p_at FROM gone g WHERE o.object_id = g.object_id AND o.deleted_at IS NULL;
    UPDATE uploads o SET status = p_status, file_id = p_file_id WHERE o.upload_id = u.upload_id RETURNING * INTO u;
    RETURN u;
END $$;

-- Why these parts, in this order, are not all of the upload; NULL: they are.
CREATE OR REPLACE FUNCTION upload_parts_refusal(u uploads, p_part_ids uuid[]) RETURNS text
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    found record;
BEGIN
    SELECT count(*) AS parts, count(DISTINCT p.part_id) AS different, coalesce(sum(p.byte_length), 0) AS bytes
    INTO found
    FROM unnest(p_part_ids) AS g (id) JOIN upload_parts p ON p.part_id = g.id AND p.upload_id = u.upload_id;
    RETURN CASE WHEN found.parts < cardinality(p_part_ids) THEN 'upload_part_unknown'
                WHEN found.different < found.parts THEN 'upload_part_repeated'
                WHEN found.bytes <> u.byte_length THEN 'upload_incomplete' END;
END $$;

CALL define_type('upload_answer', $$outcome text, user_id text, value jsonb, parts jsonb[]$$);

-- What the routes under /v1/uploads do in the database. p_act:
--   create    purpose, filename, mime_type, byte_length, expires_seconds (of the file)
--   check     whether a part of so many bytes (byte_length) may be written
--   add       a part, of an object that was written (stored)
--   plan      where these parts (part_ids) are, if they are all of the upload
--   complete  the file of these parts, which was written (stored)
--   cancel
-- Returns ok with the upload, or the part; upload_not_found, upload_finished, upload_part_unknown,
-- upload_part_repeated, upload_incomplete, upload_part_too_large, upload_parts_exceeded, file_quota_exceeded, or a
-- refusal of key_check. Completing or cancelling what was is ok, and changes nothing.
CREATE OR REPLACE FUNCTION upload_manage(p_key_hash bytea, p_act text, p_arguments jsonb) RETURNS upload_answer
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at     constant timestamptz := clock_now();
    a      constant jsonb := p_arguments;
    caller record := key_check(p_key_hash, 'submit');
    plan   quota_plans;
    u      uploads;
    p      upload_parts;
    f      files;
    parts  uuid[];
    left_bytes bigint;
    result upload_answer;
BEGIN
    result.outcome := caller.outcome;
    result.user_id := caller.user_id;
    IF caller.outcome <> 'ok' THEN
        RETURN result;
    ELSIF caller.is_stale THEN
        PERFORM key_touch(caller.key_id);
    END IF;
    plan := user_lock(caller.user_id);
    IF p_act = 'create' THEN
        result.value := file_quota_refusal(plan, (a->>'byte_length')::bigint);
        IF result.value IS NOT NULL THEN
            result.outcome := 'file_quota_exceeded';
            RETURN result;
        END IF;
        INSERT INTO uploads
            (user_id, purpose, filename, mime_type, byte_length, file_expires_seconds, created_at, expires_at)
        VALUES (caller.user_id, a->>'purpose', a->>'filename', a->>'mime_type', (a->>'byte_length')::bigint,
                (a->>'expires_seconds')::integer, at, at + (file_rules()).upload_lives)
        RETURNING * INTO u;
        result.value := upload_json(u);
        RETURN result;
    END IF;

    SELECT * INTO u FROM uploads o
    WHERE o.upload_id = (a->>'upload_id')::uuid AND o.user_id = caller.user_id;
    IF NOT FOUND THEN
        result.outcome := 'upload_not_found';
        RETURN result;
    ELSIF u.status = 'pending' AND u.expires_at <= at THEN
        u := upload_end(u, 'expired', NULL, at);
    END IF;
    -- The repeat of a call whose answer was lost.
    IF (p_act, u.status) IN (('plan', 'completed'), ('complete', 'completed'), ('cancel', 'cancelled')) THEN
        result.value := upload_json(u);
        RETURN result;
    ELSIF u.status <> 'pending' THEN
        result.outcome := 'upload_finished';
        result.value := jsonb_build_object('status', u.status);
        RETURN result;
    END IF;
    CASE p_act
    WHEN 'check', 'add' THEN
        SELECT u.byte_length - coalesce(sum(o.byte_length), 0) INTO left_bytes
        FROM upload_parts o WHERE o.upload_id = u.upload_id;
        IF coalesce(a->>'byte_length', a #>> '{stored,byte_length}')::bigint > left_bytes THEN
            result.outcome := 'upload_part_too_large';
            result.value := jsonb_build_object('byte_length', u.byte_length, 'left', left_bytes);
            RETURN result;
        ELSIF (SELECT count(*) FROM upload_parts o WHERE o.upload_id = u.upload_id) >= (file_rules()).most_parts THEN
            result.outcome := 'upload_parts_exceeded';
            result.value := jsonb_build_object('most', (file_rules()).most_parts);
            RETURN result;
        ELSIF p_act = 'add' THEN
            PERFORM object_keep(a->'stored', NULL);
            INSERT INTO upload_parts (upload_id, object_id, byte_length, created_at)
            VALUES (u.upload_id, (a #>> '{stored,object_id}')::uuid, (a #>> '{stored,byte_length}')::bigint, at)
            RETURNING * INTO p;
            result.value := to_jsonb(p) - 'object_id';
        END IF;
    WHEN 'plan', 'complete' THEN
        parts := ARRAY(SELECT jsonb_array_elements_text(a->'part_ids')::uuid);
        result.outcome := coalesce(upload_parts_refusal(u, parts), 'ok');
        IF result.outcome <> 'ok' THEN
            result.value := jsonb_build_object('byte_length', u.byte_length);
        ELSIF p_act = 'plan' THEN
            result.value := upload_json(u);
            result.parts := ARRAY(
                SELECT object_json(o.object_id) FROM unnest(parts) WITH ORDINALITY AS g (id, n)
                JOIN upload_parts o ON o.part_id = g.id ORDER BY g.n);
        ELSE
            f := file_keep(to_jsonb(u) || jsonb_build_object('expires_seconds', u.file_expires_seconds),
                           a->'stored', 'openai', caller.key_id, at);
            result.value := upload_json(upload_end(u, 'completed', f.file_id, at));
        END IF;
    WHEN 'cancel' THEN
        result.value := upload_json(upload_end(u, 'cancelled', NULL, at));
    END CASE;
    RETURN result;
END $$;
