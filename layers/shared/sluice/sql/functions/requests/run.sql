-- Running at once: a client that waits for the answer. One call accepts the request and claims it, in one commit.

CALL define_type('run', $$
    outcome text, request_id uuid, user_id text, model_id text, send uuid[], detail jsonb, claim jsonb
$$);

CREATE OR REPLACE FUNCTION request_run(p_key_hash bytea, p_submission jsonb, p_lease_seconds double precision)
    RETURNS run
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    may    text := (key_check(p_key_hash, 'read')).outcome;
    made   admission;
    result run;
BEGIN
    -- Whoever waits reads the answer, now or by a repeat of the call.
    IF may <> 'ok' THEN
        result.outcome := may;
        RETURN result;
    END IF;
    made := request_submit(p_key_hash, p_submission);
    result.outcome := made.outcome;
    result.request_id := made.request_id;
    result.user_id := made.user_id;
    result.model_id := made.model_id;
    result.send := made.send;
    result.detail := made.detail;
    -- If it was dispatched: the user's dispatch window had room, and nothing else waits before it.
    IF made.outcome = 'accepted' AND made.request_id = ANY (made.send) THEN
        SELECT to_jsonb(c) INTO result.claim FROM request_claim(ARRAY[made.request_id], p_lease_seconds) AS c;
        IF result.claim IS NOT NULL THEN
            result.send := array_remove(made.send, made.request_id);
        END IF;
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION request_run(bytea, jsonb, double precision) IS
    'As request_submit, for a key that may also read, and as request_claim where the request may run at once: claim is '
    'the row of that function, and whoever gets it has to run the request or to give it back (request_settle, '
    'released). Without a claim, it goes through the queue like any other.';

-- The cheapest question that a waiting caller can ask, again and again.
CREATE OR REPLACE FUNCTION request_ended(p_request_id uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    RETURN NOT EXISTS (SELECT FROM inflight i WHERE i.request_id = p_request_id);
COMMENT ON FUNCTION request_ended(uuid) IS 'Whether a request is no longer among the unfinished ones.';

-- The repeat of a call ------------------------------------------------------------------------------------------------

-- Clients' libraries repeat a call whose answer did not come in time, without an idempotency key. p_submission has in
-- `repeat` the digest of key and body, is_retry (the client says so itself), and after how many seconds a call without
-- that is taken for a repeat, because the first one must have been sent away by then. The first request is found while
-- it is unfinished, and for a while after that: a client is told to come back at once, and may wait two minutes.
CREATE OR REPLACE FUNCTION repeat_find(p_user_id text, p_submission jsonb, OUT request_id uuid, OUT status text)
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    patience interval := make_interval(secs => (p_submission #>> '{repeat,after_seconds}')::double precision);
BEGIN
    SELECT r.request_id, r.status INTO request_id, status
    FROM idempotency_keys k JOIN requests r ON r.request_id = k.request_id
    WHERE k.user_id = p_user_id AND k.key = repeat_key(p_submission)
      AND coalesce(r.completed_at + interval '150 seconds' > clock_now(), true)
      AND ((p_submission #>> '{repeat,is_retry}')::boolean
           OR coalesce(r.completed_at, clock_now()) >= r.created_at + patience)
      AND NOT EXISTS (SELECT FROM prompts p WHERE p.request_id = k.request_id AND p.erased_at IS NOT NULL);
END $$;

-- No client can send such an idempotency key: a comma separates the values of a repeated header.
CREATE OR REPLACE FUNCTION repeat_key(p_submission jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 'repeat,' || (p_submission #>> '{repeat,digest}');

CREATE OR REPLACE FUNCTION repeat_keep(p_user_id text, p_submission jsonb, p_request_id uuid, p_at timestamptz)
    RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO idempotency_keys AS k (user_id, key, body_hash, request_id, expires_at)
    VALUES (p_user_id, repeat_key(p_submission), decode(p_submission #>> '{repeat,digest}', 'hex'), p_request_id,
            p_at + interval '1 hour')
    ON CONFLICT (user_id, key) DO UPDATE SET request_id = EXCLUDED.request_id, expires_at = EXCLUDED.expires_at;
$$;
