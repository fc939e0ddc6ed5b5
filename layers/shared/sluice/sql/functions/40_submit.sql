-- One request accepted, or refused with the reason: one call, one commit.

-- The core, for a user who is known. The user's plan is the gate: its row is locked first and held until commit, so
-- everything below is plain code: nobody else accepts or settles for this user meanwhile, and each statement sees what
-- was committed before. A refusal returns before the first write.
CREATE OR REPLACE FUNCTION request_admit(
    for_user text, by_key uuid, by_actor text,
    prompt text, model text, parameters jsonb, metadata jsonb,
    idempotency_key text, body_hash bytea,
    ttl interval, ends_at timestamptz, begins_at timestamptz, longest interval,
    max_attempts integer, may_dispatch boolean,
    OUT outcome text, OUT request_id uuid, OUT model_id text, OUT send uuid[], OUT detail jsonb
)
    LANGUAGE plpgsql AS $$
DECLARE
    m          models;
    plan       quota_plans;
    earlier    idempotency_keys;
    quota      quotas;
    at         timestamptz;
    latest     timestamptz;
    begins     timestamptz;
    ends       timestamptz;
    completion integer;
    reserved   integer;
    dispatched integer;
    waiting    integer;
    waits      interval;
    gates      jsonb := '[]';
BEGIN
    send := '{}';

    SELECT * INTO plan FROM quota_plans p WHERE p.user_id = for_user FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'user_inactive';
        RETURN;
    END IF;

    IF idempotency_key IS NOT NULL THEN
        SELECT * INTO earlier FROM idempotency_keys k
        WHERE k.user_id = for_user AND k.key = idempotency_key AND k.expires_at > clock_now();
        IF FOUND THEN
            outcome := CASE WHEN earlier.body_hash = request_admit.body_hash THEN 'replayed' ELSE 'idempotency_conflict' END;
            request_id := earlier.request_id;
            detail := jsonb_build_object('quotas', quota_gates(for_user, clock_now()));
            RETURN;
        END IF;
    END IF;

    SELECT * INTO m FROM models t
    WHERE CASE WHEN model IS NULL THEN t.is_default ELSE t.model_id = model END AND t.is_active;
    IF NOT FOUND THEN
        outcome := CASE WHEN model IS NULL THEN 'model_missing' ELSE 'model_unknown' END;
        RETURN;
    END IF;
    model_id := m.model_id;
    completion := coalesce((parameters->>'max_tokens')::integer, m.max_tokens_default);
    IF completion > m.max_tokens_limit THEN
        outcome := 'max_tokens_exceeded';
        detail := jsonb_build_object('max_tokens_limit', m.max_tokens_limit);
        RETURN;
    END IF;
    -- What the request cannot exceed: no tokenizer makes more tokens than there are bytes.
    reserved := octet_length(prompt) + m.overhead_tokens + completion;

    -- Made under the lock, so that its time, which chooses the periods, is in the order of the locks.
    request_id := request_id_now();
    at := uuid_extract_timestamp(request_id);
    -- A clock that was set back must not put it before the periods that the counters are in: its settlement would miss
    -- them, and they would keep its reservation for ever.
    SELECT max(q.period_start) INTO latest FROM quotas q WHERE q.user_id = for_user;
    IF at < latest THEN
        request_id := uuidv7(latest - clock_timestamp() + interval '1 millisecond');
        at := uuid_extract_timestamp(request_id);
    END IF;

    -- Its lifetime: until when it may be begun, counted from when it may be begun.
    begins := greatest(at, begins_at);
    ends := coalesce(ends_at, begins + coalesce(ttl, longest));
    IF begins > at + longest OR ends <= begins OR ends > begins + longest THEN
        outcome := 'lifetime_invalid';
        detail := jsonb_build_object(
            'longest_seconds', extract(epoch FROM longest)::integer,
            'why', CASE WHEN begins > at + longest THEN 'begins_late' WHEN ends <= at THEN 'ends_past'
                        WHEN ends <= begins THEN 'ends_early' ELSE 'ends_late' END);
        RETURN;
    END IF;

    FOR quota IN SELECT * FROM quotas q WHERE q.user_id = for_user LOOP
        IF at >= quota.reset_at THEN
            quota.requests_used := 0;
            quota.tokens_used := 0;
            quota.tokens_reserved := 0;
            quota.reset_at := period_end(quota.quota_period, at);
        END IF;
        IF reserved > quota.max_tokens OR quota.max_requests < 1 THEN
            outcome := 'quota_too_small';
            detail := jsonb_build_object('period', quota.quota_period, 'max_tokens', quota.max_tokens,
                                         'max_requests', quota.max_requests, 'tokens_needed', reserved);
            RETURN;
        END IF;
        IF quota.requests_used + 1 > quota.max_requests
           OR quota.tokens_used + quota.tokens_reserved + reserved > quota.max_tokens THEN
            outcome := 'quota_exceeded';
            waits := greatest(waits, quota.reset_at - at);
        ELSE
            -- What it will be once this request is in.
            quota.requests_used := quota.requests_used + 1;
            quota.tokens_reserved := quota.tokens_reserved + reserved;
        END IF;
        gates := gates || jsonb_build_object(
            'period', quota.quota_period,
            'max_requests', quota.max_requests, 'requests_used', quota.requests_used,
            'max_tokens', quota.max_tokens, 'tokens_used', quota.tokens_used + quota.tokens_reserved,
            'reset_seconds', ceil(extract(epoch FROM quota.reset_at - at)));
    END LOOP;
    IF jsonb_array_length(gates) <> 3 THEN
        -- Never let in without a limit because a limit is gone.
        RAISE EXCEPTION 'the user has % quotas, not three', jsonb_array_length(gates);
    END IF;
    detail := jsonb_build_object('quotas', gates);
    IF outcome = 'quota_exceeded' THEN
        detail := jsonb_build_object('quotas', quota_gates(for_user, at), 'retry_after',
                                     ceil(extract(epoch FROM waits)), 'tokens_needed', reserved);
        RETURN;
    END IF;

    -- Counted apart, as the two indexes are, and no further than the cap.
    SELECT count(*) INTO dispatched FROM (
        SELECT FROM inflight i WHERE i.user_id = for_user AND i.dispatched_at IS NOT NULL
        LIMIT plan.max_unfinished) AS counted;
    SELECT count(*) INTO waiting FROM (
        SELECT FROM inflight i WHERE i.user_id = for_user AND i.dispatched_at IS NULL
        LIMIT plan.max_unfinished) AS counted;
    IF dispatched + waiting >= plan.max_unfinished THEN
        outcome := 'unfinished_exceeded';
        detail := jsonb_build_object('quotas', quota_gates(for_user, at), 'max_unfinished', plan.max_unfinished);
        RETURN;
    END IF;

    -- Accepted. From here on everything is written, and nothing is refused.
    UPDATE quotas q SET
        requests_used = CASE WHEN at >= q.reset_at THEN 0 ELSE q.requests_used END + 1,
        tokens_used = CASE WHEN at >= q.reset_at THEN 0 ELSE q.tokens_used END,
        tokens_reserved = CASE WHEN at >= q.reset_at THEN 0 ELSE q.tokens_reserved END + reserved,
        period_start = CASE WHEN at >= q.reset_at THEN period_start(q.quota_period, at) ELSE q.period_start END,
        reset_at = CASE WHEN at >= q.reset_at THEN period_end(q.quota_period, at) ELSE q.reset_at END
    WHERE q.user_id = for_user;

    INSERT INTO requests (request_id, user_id, key_id, model_id, created_at, updated_at, estimated_tokens, reserved_tokens)
    VALUES (request_admit.request_id, for_user, by_key, m.model_id, at, at,
            -- A forecast for people: about four bytes a token, and all of the completion.
            least(ceil(octet_length(prompt) / 4.0)::integer + m.overhead_tokens + completion, reserved), reserved);

    INSERT INTO prompts (request_id, prompt, parameters, metadata)
    VALUES (request_admit.request_id, request_admit.prompt,
            coalesce(request_admit.parameters, '{}') || jsonb_build_object('max_tokens', completion),
            request_admit.metadata);

    -- Where nothing of the user waits and the window has room, it is dispatched at once. Otherwise it stands in line.
    may_dispatch := may_dispatch AND dispatched < plan.dispatch_window;
    INSERT INTO inflight (request_id, user_id, max_attempts, dispatched_at, not_before, expires_at)
    VALUES (request_admit.request_id, for_user, request_admit.max_attempts,
            CASE WHEN may_dispatch AND waiting = 0 AND begins <= at THEN at END, CASE WHEN begins > at THEN begins END, ends)
    RETURNING CASE WHEN inflight.dispatched_at IS NULL THEN '{}' ELSE ARRAY[inflight.request_id] END INTO send;
    IF may_dispatch AND waiting > 0 THEN
        send := ARRAY(SELECT w.request_id FROM window_fill(ARRAY[for_user], plan.dispatch_window) AS w);
    END IF;

    IF idempotency_key IS NOT NULL THEN
        INSERT INTO idempotency_keys AS k (user_id, key, body_hash, request_id, expires_at)
        VALUES (for_user, idempotency_key, request_admit.body_hash, request_admit.request_id, at + interval '24 hours')
        ON CONFLICT (user_id, key) DO UPDATE
        SET body_hash = EXCLUDED.body_hash, request_id = EXCLUDED.request_id, expires_at = EXCLUDED.expires_at;
    END IF;

    INSERT INTO audit_log (actor, action, user_id, key_id, request_id, after)
    VALUES (by_actor, 'request.queued', for_user, by_key, request_admit.request_id,
            jsonb_build_object('status', 'queued', 'model_id', m.model_id, 'reserved_tokens', reserved));
    outcome := 'accepted';
END $$;
COMMENT ON FUNCTION request_admit IS
    'accepted; replayed (the answer to an idempotency key used before); or a refusal: model_missing, model_unknown, '
    'max_tokens_exceeded, user_inactive, idempotency_conflict, lifetime_invalid, quota_too_small (can never fit), '
    'quota_exceeded, unfinished_exceeded. send: the requests of the user whose messages the caller should send now.';

CREATE OR REPLACE FUNCTION request_create(
    key_hash bytea, prompt text, model text, parameters jsonb, metadata jsonb,
    idempotency_key text, body_hash bytea,
    ttl_seconds integer, ends_at timestamptz, begins_at timestamptz, longest_seconds integer, max_attempts integer,
    OUT outcome text, OUT request_id uuid, OUT user_id text, OUT model_id text, OUT send uuid[], OUT detail jsonb
)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    who      record;
    accepted record;
BEGIN
    who := key_check(key_hash, 'submit');
    IF who.outcome = 'ok' THEN
        -- The gate, and the key again: it may have been revoked while others were let in first.
        PERFORM FROM quota_plans p WHERE p.user_id = who.user_id FOR NO KEY UPDATE;
        who := key_check(key_hash, 'submit');
    END IF;
    IF who.outcome <> 'ok' THEN
        outcome := who.outcome;
        RETURN;
    END IF;
    accepted := request_admit(who.user_id, who.key_id, 'submit', prompt, model, parameters, metadata, idempotency_key,
                              body_hash, make_interval(secs => ttl_seconds), ends_at, begins_at,
                              make_interval(secs => longest_seconds), max_attempts, true);
    outcome := accepted.outcome;
    request_id := accepted.request_id;
    user_id := who.user_id;
    model_id := accepted.model_id;
    send := accepted.send;
    detail := accepted.detail;
    IF outcome = 'accepted' AND who.is_stale THEN
        PERFORM key_touch(who.key_id);
    END IF;
END $$;
COMMENT ON FUNCTION request_create IS
    'What POST /generate does in the database, after key_check; see request_admit. ttl_seconds, ends_at and begins_at may be '
    'NULL; a lifetime is longest_seconds at most, and that where neither it nor its end is given.';

-- Writers from outside (a stream processor, another service) insert (user_id, prompt, model_id) here. The request is
-- accounted for like any other; the minute's sweep sends its message. They are trusted: the deployment's limits of
-- prompt length, lifetime and attempts, which only submit knows, are the usual ones here. The id is the database's; one
-- that the writer gives is what an Idempotency-Key is to clients, since such writers deliver at least once.
CREATE OR REPLACE VIEW submissions AS
    SELECT r.request_id, r.user_id, p.prompt, r.model_id, r.status, p.parameters, p.metadata, r.created_at,
           r.error_code, r.error_message, a.content AS result
    FROM requests_all r
    JOIN prompts p ON p.request_id = r.request_id
    LEFT JOIN results a ON a.result_id = r.result_id;

CREATE OR REPLACE FUNCTION submission_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    a record;
BEGIN
    NEW.parameters := coalesce(NEW.parameters, '{}');
    IF coalesce(NEW.prompt, '') = ''
       OR jsonb_typeof(NEW.parameters) <> 'object'
       OR EXISTS (
           SELECT FROM jsonb_each(CASE jsonb_typeof(NEW.parameters) WHEN 'object' THEN NEW.parameters ELSE '{}' END) AS p
           WHERE NOT coalesce(CASE p.key
               WHEN 'max_tokens' THEN p.value::text ~ '^[1-9][0-9]{0,8}$'
               WHEN 'temperature' THEN jsonb_typeof(p.value) = 'number' AND p.value >= '0' AND p.value <= '2'
               WHEN 'top_p' THEN jsonb_typeof(p.value) = 'number' AND p.value > '0' AND p.value <= '1'
               WHEN 'seed' THEN p.value::text ~ '^[0-9]{1,10}$' AND p.value < '2147483648'
               WHEN 'stop' THEN jsonb_typeof(p.value) = 'array'
           END, false))
    THEN
        RAISE EXCEPTION 'submission refused: invalid_input' USING ERRCODE = 'SL422', CONSTRAINT = 'invalid_input',
            DETAIL = 'the prompt must not be empty; parameters is an object of max_tokens (at least 1), temperature (0 to '
                     '2), top_p (above 0, up to 1), stop (a list) and seed (below 2147483648)';
    END IF;
    -- The gate first: the user may be deactivated while others are let in.
    PERFORM FROM quota_plans p WHERE p.user_id = NEW.user_id FOR NO KEY UPDATE;
    IF NOT EXISTS (SELECT FROM users u WHERE u.user_id = NEW.user_id AND u.is_active) THEN
        RAISE EXCEPTION 'no active user %', NEW.user_id USING ERRCODE = 'SL403', CONSTRAINT = 'user_inactive';
    END IF;
    a := request_admit(NEW.user_id, NULL, 'submissions', NEW.prompt, NEW.model_id, NEW.parameters, NEW.metadata,
                       'submission ' || NEW.request_id, sha256(convert_to(jsonb_build_array(
                           NEW.prompt, NEW.model_id, NEW.parameters, NEW.metadata)::text, 'UTF8')),
                       NULL, NULL, NULL, interval '1 day', 20, false);
    IF a.outcome NOT IN ('accepted', 'replayed') THEN
        RAISE EXCEPTION 'submission refused: %', a.outcome
            USING ERRCODE = CASE WHEN a.outcome IN ('quota_exceeded', 'unfinished_exceeded') THEN 'SL429' ELSE 'SL422' END,
                  CONSTRAINT = a.outcome, DETAIL = coalesce(a.detail, '{}')::text;
    END IF;
    SELECT s.* INTO NEW FROM submissions s WHERE s.request_id = a.request_id;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER submission_insert INSTEAD OF INSERT ON submissions
    FOR EACH ROW EXECUTE FUNCTION submission_insert();
