-- Cancelling: at once if no worker has the request, otherwise when its worker has answered.

CALL define_type('cancellation', $$outcome text, status text, user_id text, send uuid[]$$);

-- The core; the caller holds the user lock. A request that is queued, or whose lease has run out, is cancelled now. One
-- that a worker is processing may finish, because the tokens that the model reports are used in any case; the answer
-- will be dropped.
CREATE OR REPLACE FUNCTION cancellation_apply(p_request_id uuid, p_actor text, OUT outcome text, OUT status text)
    LANGUAGE plpgsql AS $$
DECLARE
    i inflight;
BEGIN
    SELECT * INTO i FROM inflight f WHERE f.request_id = p_request_id FOR UPDATE;
    IF NOT FOUND THEN
        SELECT r.status INTO status FROM requests_all r WHERE r.request_id = p_request_id;
        outcome := CASE status WHEN 'cancelled' THEN 'ok' ELSE 'request_finished' END;
    ELSIF i.status = 'queued' OR i.lease_until < clock_now() THEN
        PERFORM FROM outcomes_settle(outcomes_read(jsonb_build_array(jsonb_build_object(
            'request_id', p_request_id, 'attempt', i.attempt, 'outcome', 'cancelled'))), p_actor);
        outcome := 'ok';
        status := 'cancelled';
    ELSE
        IF i.cancel_requested_at IS NULL THEN
            UPDATE inflight f SET cancel_requested_at = clock_now() WHERE f.request_id = p_request_id;
            PERFORM audit_write(p_actor, ARRAY[ROW(
                'request.cancel_requested', i.user_id, NULL, p_request_id, NULL,
                jsonb_build_object('attempt', i.attempt))::audit_entry]);
        END IF;
        outcome := 'ok';
        status := 'processing';
    END IF;
END $$;
COMMENT ON FUNCTION cancellation_apply(uuid, text) IS
    'ok with status cancelled, or processing (it will be cancelled when its worker answers or the lease runs out); or '
    'request_finished with the status that it ended in.';

CREATE OR REPLACE FUNCTION request_cancel(p_key_hash bytea, p_request_id uuid) RETURNS cancellation
    LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    caller record := key_check(p_key_hash, 'submit');
    result cancellation;
BEGIN
    result.send := '{}';
    result.outcome := caller.outcome;
    result.user_id := caller.user_id;
    IF caller.outcome <> 'ok' THEN
        RETURN result;
    END IF;
    IF NOT EXISTS (SELECT FROM requests_all r WHERE r.request_id = p_request_id AND r.user_id = caller.user_id) THEN
        result.outcome := 'request_not_found';
        RETURN result;
    END IF;
    PERFORM user_lock(caller.user_id);
    SELECT c.outcome, c.status INTO result.outcome, result.status FROM cancellation_apply(p_request_id, 'submit') AS c;
    result.send := ARRAY(SELECT w.request_id FROM dispatch_waiting(ARRAY[caller.user_id], 1000) AS w);
    IF caller.is_stale THEN
        PERFORM key_touch(caller.key_id);
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION request_cancel(bytea, uuid) IS
    'What POST /requests/{id}/cancel does in the database; see cancellation_apply. send: the user''s next requests, '
    'whose messages the caller should send now.';
