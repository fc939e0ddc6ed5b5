-- Administrative operations on batches.

CREATE OR REPLACE FUNCTION admin_batch_cancel(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    owner  text := (SELECT b.user_id FROM batches b WHERE b.batch_id = (a->>'batch_id')::uuid);
    result batch_answer;
BEGIN
    IF owner IS NULL THEN
        PERFORM admin_refuse('batch_not_found');
    END IF;
    result := batch_act(owner, 'admin', NULL, 'cancel', a);
    IF result.outcome <> 'ok' THEN
        PERFORM admin_refuse(result.outcome);
    END IF;
    RETURN result.value;
END $$;

-- Newest first; of one user, in one state, or all.
CREATE OR REPLACE FUNCTION batch_list(p_user_id text, p_status text, p_batch_id uuid, p_limit integer)
    RETURNS SETOF jsonb
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT batch_json(b) FROM batches b
    WHERE (p_user_id IS NULL OR b.user_id = p_user_id) AND (p_status IS NULL OR b.status = p_status)
      AND (p_batch_id IS NULL OR b.batch_id = p_batch_id)
    ORDER BY b.batch_id DESC LIMIT p_limit;
$$;
