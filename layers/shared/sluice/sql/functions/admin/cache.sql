-- Administrative operations on the answer cache.

-- Lets answers be found no longer: those of a user, of a model, or a user's of a model.
CREATE OR REPLACE FUNCTION admin_cache_purge(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    done integer;
BEGIN
    IF a->>'user_id' IS NOT NULL THEN
        PERFORM admin_user_lock(a->>'user_id');
    END IF;
    IF a->>'model_id' IS NOT NULL AND NOT EXISTS (SELECT FROM models m WHERE m.model_id = a->>'model_id') THEN
        PERFORM admin_refuse('model_unknown');
    END IF;
    done := cache_forget(a->>'user_id', a->>'model_id');
    PERFORM admin_audit('cache.purged', a->>'user_id', NULL, NULL,
                        jsonb_strip_nulls(jsonb_build_object('model_id', a->>'model_id', 'answers', done)));
    RETURN jsonb_build_object('forgotten', done);
END $$;
