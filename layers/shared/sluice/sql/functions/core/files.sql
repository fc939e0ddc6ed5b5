CREATE OR REPLACE FUNCTION file_keep(p_file jsonb, p_stored jsonb, p_at timestamptz) RETURNS files
    LANGUAGE plpgsql AS $$
DECLARE
    f files;
BEGIN
    PERFORM object_keep(p_stored, NULL);
    INSERT INTO files (user_id, purpose, filename, byte_length, object_id, batch_id, created_at, expires_at)
    VALUES (p_file->>'user_id', p_file->>'purpose', p_file->>'filename', (p_stored->>'byte_length')::bigint,
            (p_stored->>'object_id')::uuid, (p_file->>'batch_id')::uuid, p_at, (p_file->>'expires_at')::timestamptz)
    RETURNING * INTO f;
    PERFORM audit_write('openai', ARRAY[ROW(
        'file.created', f.user_id, NULL, NULL, NULL,
        jsonb_build_object('file_id', f.file_id, 'purpose', f.purpose, 'byte_length', f.byte_length,
                           'batch_id', f.batch_id))::audit_entry]);
    RETURN f;
END $$;

CREATE OR REPLACE FUNCTION file_find(p_user_id text, p_file_id uuid) RETURNS files
    LANGUAGE sql STABLE AS $$
    SELECT f FROM files f WHERE f.file_id = p_file_id AND f.user_id = p_user_id AND f.deleted_at IS NULL
        AND coalesce(f.expires_at > clock_now(), true);
$$;
