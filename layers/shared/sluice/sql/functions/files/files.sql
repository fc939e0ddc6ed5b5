-- Files: those that users upload, and those that batches make.

-- upload_lives: of an upload that is not completed. most_parts: of an upload. batch_lives: what belongs to a batch is
-- kept for so long unless its user says otherwise, as OpenAI's API has it.
CREATE OR REPLACE FUNCTION file_rules(OUT upload_lives interval, OUT most_parts integer, OUT batch_lives interval)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '1 hour', 10000, interval '30 days';
$$;

CREATE OR REPLACE FUNCTION file_is_there(f files) RETURNS boolean
    LANGUAGE sql VOLATILE
    RETURN f.deleted_at IS NULL AND coalesce(f.expires_at > clock_now(), true);

-- A file of the user; all fields are NULL if there is none, or no longer.
CREATE OR REPLACE FUNCTION file_find(p_user_id text, p_file_id uuid) RETURNS files
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    f files;
BEGIN
    SELECT * INTO f FROM files o WHERE o.file_id = p_file_id AND o.user_id = p_user_id AND file_is_there(o);
    RETURN f;
END $$;

-- How many bytes a user's files have, with those that pending uploads announced.
CREATE OR REPLACE FUNCTION file_bytes_used(p_user_id text) RETURNS bigint
    LANGUAGE sql STABLE
    RETURN (SELECT coalesce(sum(f.byte_length), 0) FROM files f WHERE f.user_id = p_user_id AND file_is_there(f))
           + (SELECT coalesce(sum(u.byte_length), 0) FROM uploads u
              WHERE u.user_id = p_user_id AND u.status = 'pending' AND u.expires_at > clock_now());

-- Why so many bytes more are too many; NULL: they are not. The caller holds the user lock.
CREATE OR REPLACE FUNCTION file_quota_refusal(plan quota_plans, p_bytes bigint) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    used bigint;
BEGIN
    IF plan.max_file_bytes IS NULL THEN
        RETURN NULL;
    END IF;
    used := file_bytes_used(plan.user_id);
    RETURN CASE WHEN used + p_bytes > plan.max_file_bytes THEN jsonb_build_object(
        'maximum', plan.max_file_bytes, 'used', used, 'bytes_needed', p_bytes) END;
END $$;

CREATE OR REPLACE FUNCTION file_json(f files) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN to_jsonb(f) - '{object_id,deleted_at}'::text[];

CREATE OR REPLACE FUNCTION file_audit(p_actor text, p_action text, f files, p_key_id uuid) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    -- Without its name, which may say anything.
    PERFORM audit_write(p_actor, ARRAY[ROW(
        p_action, f.user_id, p_key_id, NULL, NULL, jsonb_strip_nulls(jsonb_build_object(
            'file_id', f.file_id, 'purpose', f.purpose, 'byte_length', f.byte_length,
            'batch_id', f.batch_id)))::audit_entry]);
END $$;

-- Writes the rows of a file whose object was written just now. p_file: user_id, purpose, filename, expires_seconds and
-- batch_id. The caller holds the user lock.
CREATE OR REPLACE FUNCTION file_keep(
    p_file jsonb, p_stored jsonb, p_actor text, p_key_id uuid, p_at timestamptz
)
    RETURNS files
    LANGUAGE plpgsql AS $$
DECLARE
    lives constant interval := coalesce(
        make_interval(secs => (p_file->>'expires_seconds')::integer),
        CASE WHEN p_file->>'purpose' LIKE 'batch%' THEN (file_rules()).batch_lives END);
    f     files;
BEGIN
    PERFORM object_keep(p_stored, NULL);
    INSERT INTO files
        (user_id, purpose, filename, mime_type, byte_length, object_id, batch_id, created_at, expires_at)
    VALUES (p_file->>'user_id', p_file->>'purpose', p_file->>'filename', p_stored->>'mime_type',
            (p_stored->>'byte_length')::bigint, (p_stored->>'object_id')::uuid, (p_file->>'batch_id')::uuid, p_at,
            p_at + lives)
    RETURNING * INTO f;
    PERFORM file_audit(p_actor, 'file.created', f, p_key_id);
    RETURN f;
END $$;

-- What was a file is one no longer. Its object is deleted by the next sweep, unless a batch reads it that has not
-- ended.
CREATE OR REPLACE FUNCTION file_drop(f files, p_action text, p_actor text, p_key_id uuid, p_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE files o SET deleted_at = p_at WHERE o.file_id = f.file_id;
    UPDATE objects o SET deleted_at = p_at
    WHERE o.object_id = f.object_id AND o.deleted_at IS NULL AND NOT file_is_read(o.object_id);
    PERFORM file_audit(p_actor, p_action, f, p_key_id);
END $$;

CREATE OR REPLACE FUNCTION file_is_read(p_object_id uuid) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN EXISTS (SELECT FROM batches b WHERE b.input_object_id = p_object_id AND b.next_at IS NOT NULL);

CALL define_type('file_answer', $$outcome text, user_id text, value jsonb, stored jsonb$$);

-- What the routes under /v1/files do in the database. p_act:
--   check   whether so many bytes (byte_length) may be written
--   create  a file (purpose, filename, expires_seconds) of an object that was written (stored)
--   show, list, delete
-- Returns ok with the file, or a list; file_not_found, file_quota_exceeded, or a refusal of key_check. stored: where
-- the file is.
CREATE OR REPLACE FUNCTION file_manage(p_key_hash bytea, p_act text, p_arguments jsonb) RETURNS file_answer
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at     constant timestamptz := clock_now();
    a      constant jsonb := p_arguments;
    caller record := key_check(p_key_hash, CASE WHEN p_act IN ('show', 'list') THEN 'read' ELSE 'submit' END);
    plan   quota_plans;
    f      files;
    result file_answer;
BEGIN
    result.outcome := caller.outcome;
    result.user_id := caller.user_id;
    IF caller.outcome <> 'ok' THEN
        RETURN result;
    ELSIF caller.is_stale THEN
        PERFORM key_touch(caller.key_id);
    END IF;
    IF p_act IN ('check', 'create', 'delete') THEN
        plan := user_lock(caller.user_id);
    END IF;
    CASE p_act
    WHEN 'check', 'create' THEN
        result.value := file_quota_refusal(plan, coalesce(a->>'byte_length', a #>> '{stored,byte_length}')::bigint);
        IF result.value IS NOT NULL THEN
            result.outcome := 'file_quota_exceeded';
        ELSIF p_act = 'create' THEN
            f := file_keep(a || jsonb_build_object('user_id', caller.user_id), a->'stored', 'openai', caller.key_id,
                           at);
        END IF;
    WHEN 'show', 'delete' THEN
        f := file_find(caller.user_id, (a->>'file_id')::uuid);
        IF f.file_id IS NULL THEN
            result.outcome := 'file_not_found';
        ELSIF p_act = 'delete' THEN
            PERFORM file_drop(f, 'file.deleted', 'openai', caller.key_id, at);
        END IF;
    WHEN 'list' THEN
        result.value := (
            SELECT coalesce(jsonb_agg(l.file ORDER BY CASE WHEN a->>'order' = 'asc' THEN l.file_id END,
                                                      l.file_id DESC), '[]')
            FROM (SELECT file_json(o) AS file, o.file_id FROM files o
                  WHERE o.user_id = caller.user_id AND file_is_there(o)
                    AND (a->>'purpose' IS NULL OR o.purpose = a->>'purpose')
                    AND CASE WHEN a->>'after' IS NULL THEN true
                             WHEN a->>'order' = 'asc' THEN o.file_id > (a->>'after')::uuid
                             ELSE o.file_id < (a->>'after')::uuid END
                  -- The plan is made for the order at hand, so that the index gives it.
                  ORDER BY CASE WHEN a->>'order' = 'asc' THEN o.file_id END,
                           CASE WHEN a->>'order' <> 'asc' THEN o.file_id END DESC
                  LIMIT (a->>'limit')::integer) AS l);
    END CASE;
    IF f.file_id IS NOT NULL THEN
        result.value := file_json(f);
        result.stored := object_json(f.object_id);
    END IF;
    RETURN result;
END $$;

-- Where a file of the user is, for a line of a batch that refers to it; NULL: there is none.
CREATE OR REPLACE FUNCTION file_stored(p_user_id text, p_file_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    RETURN object_json((file_find(p_user_id, p_file_id)).object_id);

-- Of files whose time is over, and of uploads that were not completed in theirs, so many at most; returns how many.
CREATE OR REPLACE FUNCTION files_expire(p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    at      constant timestamptz := clock_now();
    f       files;
    u       uploads;
    expired integer := 0;
BEGIN
    PERFORM users_lock(ARRAY(
        (SELECT o.user_id FROM files o WHERE o.expires_at <= at AND o.deleted_at IS NULL
         ORDER BY o.expires_at, o.file_id LIMIT p_limit)
        UNION
        (SELECT o.user_id FROM uploads o WHERE o.expires_at <= at AND o.status = 'pending'
         ORDER BY o.expires_at, o.upload_id LIMIT p_limit)));
    FOR f IN
        SELECT * FROM files o WHERE o.expires_at <= at AND o.deleted_at IS NULL
        ORDER BY o.expires_at, o.file_id LIMIT p_limit
    LOOP
        PERFORM file_drop(f, 'file.expired', 'rollup', NULL, at);
        expired := expired + 1;
    END LOOP;
    FOR u IN
        SELECT * FROM uploads o WHERE o.expires_at <= at AND o.status = 'pending'
        ORDER BY o.expires_at, o.upload_id LIMIT p_limit
    LOOP
        PERFORM upload_end(u, 'expired', NULL, at);
        expired := expired + 1;
    END LOOP;
    RETURN expired;
END $$;
