-- Cancelling: at once where nobody has begun, else when the worker has answered.

-- The core, behind the gate of the request's user. What is queued, or left by a worker whose lease ran out, is cancelled
-- now; a worker that is at it is let finish, since the tokens it reports are used, and its answer is dropped.
CREATE OR REPLACE FUNCTION request_end_early(id uuid, by_actor text, OUT outcome text, OUT status text)
    LANGUAGE plpgsql AS $$
DECLARE
    i inflight;
BEGIN
    SELECT * INTO i FROM inflight f WHERE f.request_id = id FOR UPDATE;
    IF NOT FOUND THEN
        SELECT r.status INTO status FROM requests_all r WHERE r.request_id = id;
        outcome := CASE status WHEN 'cancelled' THEN 'ok' ELSE 'request_finished' END;
    ELSIF i.status = 'queued' OR i.lease_until < clock_now() THEN
        PERFORM FROM outcomes_settle(jsonb_build_array(jsonb_build_object(
            'request_id', id, 'attempt', i.attempt, 'outcome', 'cancelled')), by_actor);
        outcome := 'ok';
        status := 'cancelled';
    ELSE
        IF i.cancelled_at IS NULL THEN
            UPDATE inflight f SET cancelled_at = clock_now() WHERE f.request_id = id;
            INSERT INTO audit_log (actor, action, user_id, request_id, after, invocation)
            VALUES (by_actor, 'request.cancel_requested', i.user_id, id, jsonb_build_object('attempt', i.attempt),
                    nullif(current_setting('sluice.invocation', true), '')::uuid);
        END IF;
        outcome := 'ok';
        status := 'processing';
    END IF;
END $$;
COMMENT ON FUNCTION request_end_early(uuid, text) IS
    'ok with status cancelled, or processing (it will be cancelled when its worker answers or its lease runs out); or '
    'request_finished with how it ended.';

CREATE OR REPLACE FUNCTION request_cancel(key_hash bytea, id uuid, OUT outcome text, OUT status text, OUT user_id text, OUT send uuid[])
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    who record;
BEGIN
    send := '{}';
    who := key_check(key_hash, 'submit');
    outcome := who.outcome;
    user_id := who.user_id;
    IF outcome <> 'ok' THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM requests r WHERE r.request_id = id AND r.user_id = who.user_id)
       AND NOT EXISTS (SELECT FROM requests_archive r WHERE r.request_id = id AND r.user_id = who.user_id) THEN
        outcome := 'request_not_found';
        RETURN;
    END IF;
    PERFORM FROM quota_plans p WHERE p.user_id = who.user_id FOR NO KEY UPDATE;
    SELECT e.outcome, e.status INTO outcome, status FROM request_end_early(id, 'submit') AS e;
    send := ARRAY(SELECT w.request_id FROM window_fill(ARRAY[who.user_id], 1000) AS w);
    IF who.is_stale THEN
        PERFORM key_touch(who.key_id);
    END IF;
END $$;
COMMENT ON FUNCTION request_cancel(bytea, uuid) IS
    'What POST /requests/{id}/cancel does in the database; see request_end_early. send: next ones of the user''s requests '
    'whose messages the caller should send now.';
