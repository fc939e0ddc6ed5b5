-- Invariants of the objects.

-- What refers to an object refers to one of the same user that is there; once it was erased, the object is deleted too.
-- An object of the class results has an answer that refers to it, one of the class inputs a prompt, one of the classes
-- files and uploads a file or a part of an upload, which have one each. None was missing when the bucket was swept
-- last.
CREATE OR REPLACE FUNCTION object_is_kept(p_full boolean, p_today uuid) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    -- The ids of results and files carry the real time, even if a test moves the clock.
    oldest uuid := least(p_today, uuidv7_floor(period_start('daily', clock_timestamp())));
BEGIN
    RETURN QUERY
        SELECT r.user_id::text, b.request_id, NULL::text,
               format('object %s of %s, %s', b.object_id, r.user_id,
                      CASE WHEN s.output->'items' = '[]' THEN 'deleted' ELSE 'there' END),
               CASE WHEN o.object_id IS NULL THEN 'none'
                    ELSE format('object of %s, %s', o.user_id,
                                CASE WHEN o.deleted_at IS NULL THEN 'there' ELSE 'deleted' END) END
        FROM binary_results b
        JOIN results s ON s.result_id = b.result_id
        JOIN requests_all r ON r.request_id = b.request_id
        LEFT JOIN objects o ON o.object_id = b.object_id
        WHERE b.object_id IS NOT NULL AND (p_full OR b.result_id >= oldest)
          AND (o.user_id <> r.user_id
               -- The row of an object that was deleted goes with the next sweep.
               OR CASE WHEN s.output->'items' = '[]' THEN o.deleted_at IS NULL AND o.object_id IS NOT NULL
                       ELSE o.object_id IS NULL OR o.deleted_at IS NOT NULL END)
        UNION ALL
        -- A prompt that was erased has its beginning no more.
        SELECT o.user_id::text, o.request_id, NULL::text,
               format('an input with the object %s, of %s', o.object_id, o.user_id),
               CASE WHEN r.user_id IS NULL THEN 'none'
                    ELSE format('object %s, of %s', p.input #>> '{stored,object_id}', r.user_id) END
        FROM objects o
        LEFT JOIN requests_all r ON r.request_id = o.request_id
        LEFT JOIN prompts p ON p.request_id = o.request_id
        WHERE o.object_class = 'inputs' AND (p_full OR o.request_id >= p_today) AND o.deleted_at IS NULL
          AND (o.user_id, o.object_id::text) IS DISTINCT FROM (r.user_id, p.input #>> '{stored,object_id}')
        UNION ALL
        SELECT r.user_id::text, p.request_id, NULL::text, 'object ' || (p.input #>> '{stored,object_id}'), 'none'
        FROM prompts p
        LEFT JOIN requests_all r ON r.request_id = p.request_id
        WHERE p_full AND p.input ? 'stored'
          AND NOT EXISTS (SELECT FROM objects o
                          WHERE o.object_id = (p.input #>> '{stored,object_id}')::uuid AND o.deleted_at IS NULL)
        UNION ALL
        SELECT o.user_id::text, NULL::uuid, NULL::text, 'an answer with the object ' || o.object_id, 'none'
        FROM objects o
        WHERE p_full AND o.object_class = 'results' AND o.deleted_at IS NULL
          AND NOT EXISTS (SELECT FROM binary_results b WHERE b.object_id = o.object_id)
        UNION ALL
        -- What an unfinished batch reads is kept, even if its file was deleted.
        SELECT f.user_id::text, NULL::uuid, NULL::text,
               format('file %s with the object %s, of %s, %s bytes', f.file_id, f.object_id, f.user_id, f.byte_length),
               CASE WHEN o.object_id IS NULL OR o.deleted_at IS NOT NULL THEN 'none'
                    ELSE format('object of %s, %s, %s bytes', o.user_id, o.object_class, o.byte_length) END
        FROM files f
        LEFT JOIN objects o ON o.object_id = f.object_id
        WHERE (p_full OR f.file_id >= oldest) AND (f.deleted_at IS NULL OR file_is_read(f.object_id))
          AND (o.user_id, o.object_class, o.byte_length, o.deleted_at IS NULL)
              IS DISTINCT FROM (f.user_id, 'files'::varchar, f.byte_length, true)
        UNION ALL
        SELECT u.user_id::text, NULL::uuid, NULL::text,
               format('part %s with the object %s, of %s', p.part_id, p.object_id, u.user_id),
               CASE WHEN o.object_id IS NULL OR o.deleted_at IS NOT NULL THEN 'none'
                    ELSE format('object of %s, %s', o.user_id, o.object_class) END
        FROM upload_parts p
        JOIN uploads u ON u.upload_id = p.upload_id
        LEFT JOIN objects o ON o.object_id = p.object_id
        WHERE (o.user_id, o.object_class, o.byte_length, o.deleted_at IS NULL)
              IS DISTINCT FROM (u.user_id, 'uploads'::varchar, p.byte_length, true)
        UNION ALL
        SELECT o.user_id::text, NULL::uuid, NULL::text,
               'a file, or a part of an upload, with the object ' || o.object_id, 'none'
        FROM objects o
        WHERE p_full AND o.object_class IN ('files', 'uploads') AND o.deleted_at IS NULL
          AND NOT EXISTS (SELECT FROM files f WHERE f.object_id = o.object_id
                                                AND (f.deleted_at IS NULL OR file_is_read(o.object_id)))
          AND NOT EXISTS (SELECT FROM upload_parts p WHERE p.object_id = o.object_id)
        UNION ALL
        SELECT o.user_id::text, NULL::uuid, NULL::text, 'object ' || o.object_id, 'missing since ' || o.missing_at
        FROM objects o
        WHERE o.missing_at IS NOT NULL AND o.deleted_at IS NULL
        LIMIT 100;
END $$;
