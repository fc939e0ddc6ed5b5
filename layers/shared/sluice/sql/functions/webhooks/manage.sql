-- Managing endpoints: by their users through the API, and by operators.

-- An endpoint as people see it: without its secrets.
CREATE OR REPLACE FUNCTION webhook_endpoint_json(w webhook_endpoints) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN to_jsonb(w) - '{secret,old_secret}'::text[]
           || jsonb_build_object('secret_hint', 'whsec_…' || right(w.secret, 4));

-- An event with its attempts, oldest first.
CREATE OR REPLACE FUNCTION webhook_event_json(v webhook_events) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(v) - '{max_attempts,leased_until,expires_at}'::text[]
           || jsonb_build_object(
               'next_attempt_at', CASE WHEN v.state = 'pending' THEN to_jsonb(v.next_attempt_at) END,
               'deliveries', coalesce((
                   SELECT jsonb_agg(to_jsonb(d) - 'event_id' ORDER BY d.attempt)
                   FROM webhook_deliveries d WHERE d.event_id = v.event_id), '[]'));
$$;

CREATE OR REPLACE FUNCTION webhook_audit(
    p_actor text, p_action text, w webhook_endpoints, p_key_id uuid, p_after jsonb DEFAULT '{}'
)
    RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    -- Neither the URL nor the name, which may hold anything.
    PERFORM audit_write(p_actor, ARRAY[ROW(
        p_action, w.user_id, p_key_id, NULL, NULL,
        jsonb_build_object('endpoint_id', w.endpoint_id) || p_after)::audit_entry]);
END $$;

-- An endpoint of the user, locked; all of its fields are NULL if there is none.
CREATE OR REPLACE FUNCTION webhook_lock(p_user_id text, p_endpoint_id uuid) RETURNS webhook_endpoints
    LANGUAGE plpgsql AS $$
DECLARE
    w webhook_endpoints;
BEGIN
    SELECT * INTO w FROM webhook_endpoints e
    WHERE e.endpoint_id = p_endpoint_id AND e.user_id = p_user_id AND e.url IS NOT NULL FOR NO KEY UPDATE;
    RETURN w;
END $$;

-- 32 bytes, nearly all of them random: what an UUID of version 4 says about itself is not.
CREATE OR REPLACE FUNCTION webhook_secret_new() RETURNS text
    LANGUAGE sql VOLATILE
    RETURN 'whsec_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64');

-- The row with the secret of the events of requests that name an URL themselves. It is made when it is first needed;
-- the caller holds the user lock.
CREATE OR REPLACE FUNCTION webhook_own_ensure(p_user_id text) RETURNS webhook_endpoints
    LANGUAGE plpgsql AS $$
DECLARE
    w webhook_endpoints;
BEGIN
    SELECT * INTO w FROM webhook_endpoints e WHERE e.user_id = p_user_id AND e.url IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO webhook_endpoints (user_id, name, event_types, secret, created_at, updated_at)
        VALUES (p_user_id, 'requests', '{}', webhook_secret_new(), clock_now(), clock_now())
        RETURNING * INTO w;
    END IF;
    RETURN w;
END $$;

-- The new secret signs from now on, and the old one too, for a while if it is kept.
CREATE OR REPLACE FUNCTION webhook_secret_set(w webhook_endpoints, p_keep_old boolean)
    RETURNS webhook_endpoints
    LANGUAGE plpgsql AS $$
DECLARE
    at constant timestamptz := clock_now();
BEGIN
    UPDATE webhook_endpoints e SET
        secret = webhook_secret_new(), updated_at = at, old_secret = CASE WHEN p_keep_old THEN e.secret END,
        old_secret_until = CASE WHEN p_keep_old THEN at + (webhook_rules()).old_secret_lives END
    WHERE e.endpoint_id = w.endpoint_id
    RETURNING * INTO w;
    RETURN w;
END $$;

CALL define_type('webhook_answer', $$outcome text, value jsonb$$);

-- The core of every act; the user is known.
CREATE OR REPLACE FUNCTION webhook_act(p_user_id text, p_actor text, p_key_id uuid, p_act text, a jsonb)
    RETURNS webhook_answer
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at     constant timestamptz := clock_now();
    w      webhook_endpoints;
    v      webhook_events;
    most   integer := (webhook_rules()).most_endpoints;
    result webhook_answer;
BEGIN
    result.outcome := 'ok';
    IF p_act IN ('create', 'delete', 'secret') THEN
        PERFORM user_lock(p_user_id);
    END IF;
    IF p_act IN ('show', 'update', 'delete', 'rotate', 'enable', 'disable') THEN
        w := webhook_lock(p_user_id, (a->>'endpoint_id')::uuid);
        IF w.endpoint_id IS NULL THEN
            result.outcome := 'webhook_endpoint_not_found';
            RETURN result;
        END IF;
    END IF;
    CASE p_act
    WHEN 'create' THEN
        IF (SELECT count(*) FROM webhook_endpoints e WHERE e.user_id = p_user_id AND e.url IS NOT NULL) >= most THEN
            result.outcome := 'webhook_endpoints_exceeded';
            result.value := jsonb_build_object('most', most);
            RETURN result;
        END IF;
        INSERT INTO webhook_endpoints (user_id, url, name, event_types, secret, created_at, updated_at)
        VALUES (p_user_id, a->>'url', a->>'name', ARRAY(SELECT jsonb_array_elements_text(a->'event_types')),
                webhook_secret_new(), at, at)
        RETURNING * INTO w;
        UPDATE quota_plans p SET has_webhooks = true WHERE p.user_id = p_user_id AND NOT p.has_webhooks;
        PERFORM webhook_audit(p_actor, 'webhook.created', w, p_key_id,
                              jsonb_build_object('event_types', to_jsonb(w.event_types)));
    WHEN 'show' THEN
        NULL;
    WHEN 'list' THEN
        result.value := (
            SELECT coalesce(jsonb_agg(webhook_endpoint_json(e) ORDER BY e.endpoint_id DESC), '[]')
            FROM (SELECT * FROM webhook_endpoints o
                  WHERE o.user_id = p_user_id AND o.url IS NOT NULL
                    AND (a->>'after' IS NULL OR o.endpoint_id < (a->>'after')::uuid)
                  ORDER BY o.endpoint_id DESC LIMIT (a->>'limit')::integer) AS e);
        RETURN result;
    WHEN 'update' THEN
        -- Another URL, or the wish for it, lets an endpoint be used again.
        UPDATE webhook_endpoints e SET
            url = coalesce(a->>'url', e.url), name = coalesce(a->>'name', e.name),
            event_types = CASE WHEN a ? 'event_types'
                               THEN ARRAY(SELECT jsonb_array_elements_text(a->'event_types')) ELSE e.event_types END,
            disabled_at = CASE WHEN a ? 'url' AND a->>'url' <> e.url THEN NULL ELSE e.disabled_at END,
            disabled_reason = CASE WHEN a ? 'url' AND a->>'url' <> e.url THEN NULL ELSE e.disabled_reason END,
            failures = CASE WHEN a ? 'url' THEN 0 ELSE e.failures END,
            paused_until = CASE WHEN a ? 'url' THEN NULL ELSE e.paused_until END, updated_at = at
        WHERE e.endpoint_id = w.endpoint_id
          AND (e.url, e.name, e.event_types) IS DISTINCT FROM
              (coalesce(a->>'url', e.url), coalesce(a->>'name', e.name)::varchar,
               CASE WHEN a ? 'event_types' THEN ARRAY(SELECT jsonb_array_elements_text(a->'event_types'))
                    ELSE e.event_types END);
        IF FOUND THEN
            SELECT * INTO w FROM webhook_endpoints e WHERE e.endpoint_id = w.endpoint_id;
            PERFORM webhook_audit(p_actor, 'webhook.updated', w, p_key_id,
                                  jsonb_build_object('event_types', to_jsonb(w.event_types),
                                                     'has_new_url', a ? 'url'));
        END IF;
    WHEN 'enable' THEN
        IF w.disabled_at IS NOT NULL THEN
            UPDATE webhook_endpoints e SET
                disabled_at = NULL, disabled_reason = NULL, failures = 0, paused_until = NULL, updated_at = at
            WHERE e.endpoint_id = w.endpoint_id RETURNING * INTO w;
            PERFORM webhook_audit(p_actor, 'webhook.enabled', w, p_key_id);
        END IF;
    WHEN 'disable' THEN
        PERFORM webhook_disable(w.endpoint_id, CASE p_actor WHEN 'admin' THEN 'operator' ELSE 'user' END, p_actor,
                                p_key_id, at);
        SELECT * INTO w FROM webhook_endpoints e WHERE e.endpoint_id = w.endpoint_id;
    WHEN 'delete' THEN
        PERFORM webhook_events_drop(w.endpoint_id, 'deleted', at);
        DELETE FROM webhook_endpoints e WHERE e.endpoint_id = w.endpoint_id;
        UPDATE quota_plans p SET has_webhooks = EXISTS (
            SELECT FROM webhook_endpoints e WHERE e.user_id = p_user_id AND e.url IS NOT NULL)
        WHERE p.user_id = p_user_id;
        PERFORM webhook_audit(p_actor, 'webhook.deleted', w, p_key_id);
    WHEN 'rotate' THEN
        w := webhook_secret_set(w, (a->>'keep_old')::boolean);
        PERFORM webhook_audit(p_actor, 'webhook.secret_rotated', w, p_key_id,
                              jsonb_build_object('old_secret_until', w.old_secret_until));
    WHEN 'secret' THEN
        w := webhook_secret_set(webhook_own_ensure(p_user_id), (a->>'keep_old')::boolean);
        PERFORM webhook_audit(p_actor, 'webhook.secret_rotated', w, p_key_id,
                              jsonb_build_object('old_secret_until', w.old_secret_until));
    WHEN 'events' THEN
        result.value := (
            SELECT coalesce(jsonb_agg(webhook_event_json(e) ORDER BY e.event_id DESC), '[]')
            FROM (SELECT * FROM webhook_events o
                  WHERE o.user_id = p_user_id
                    AND (a->>'after' IS NULL OR o.event_id < (a->>'after')::uuid)
                    AND (a->>'endpoint_id' IS NULL OR o.endpoint_id = (a->>'endpoint_id')::uuid)
                    AND (a->>'state' IS NULL OR o.state = a->>'state')
                  ORDER BY o.event_id DESC LIMIT (a->>'limit')::integer) AS e);
        RETURN result;
    WHEN 'event', 'redeliver' THEN
        SELECT * INTO v FROM webhook_events e
        WHERE e.event_id = (a->>'event_id')::uuid AND e.user_id = p_user_id;
        IF NOT FOUND THEN
            result.outcome := 'webhook_event_not_found';
            RETURN result;
        END IF;
        IF p_act = 'redeliver' THEN
            result.outcome := webhook_redeliver(v, p_actor, p_key_id, at);
            SELECT * INTO v FROM webhook_events e WHERE e.event_id = v.event_id;
        END IF;
        result.value := webhook_event_json(v);
        RETURN result;
    END CASE;
    -- The only answers with a secret: once, when it is made.
    result.value := webhook_endpoint_json(w) || CASE WHEN p_act IN ('create', 'rotate', 'secret')
                                                     THEN jsonb_build_object('secret', w.secret) ELSE '{}' END;
    RETURN result;
END $$;
COMMENT ON FUNCTION webhook_act(text, text, uuid, text, jsonb) IS
    'p_act: create, show, list, update, enable, disable, delete, rotate, secret (of requests with an URL of their '
    'own), events, event, redeliver. Returns ok with the endpoint, with its secret where that is new, or the event; or '
    'webhook_endpoint_not_found, webhook_event_not_found, webhook_endpoints_exceeded, webhook_endpoint_disabled.';

-- Sends an event again, whatever became of it, and begins its schedule anew. One that is pending is sent at once.
CREATE OR REPLACE FUNCTION webhook_redeliver(v webhook_events, p_actor text, p_key_id uuid, p_at timestamptz)
    RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    w webhook_endpoints;
BEGIN
    SELECT * INTO w FROM webhook_endpoints e WHERE e.endpoint_id = v.endpoint_id FOR NO KEY UPDATE;
    IF w.endpoint_id IS NULL THEN
        RETURN 'webhook_endpoint_not_found';
    ELSIF w.disabled_at IS NOT NULL THEN
        RETURN 'webhook_endpoint_disabled';
    END IF;
    -- One that a claimer has is being sent.
    UPDATE webhook_events e SET
        state = 'pending', ended_at = NULL, next_attempt_at = p_at, max_attempts = e.attempts + webhook_attempts(),
        expires_at = p_at + (webhook_rules()).lives
    WHERE e.event_id = v.event_id AND (e.leased_until IS NULL OR e.leased_until <= p_at);
    PERFORM webhook_audit(p_actor, 'webhook.redelivered', w, p_key_id, jsonb_build_object('event_id', v.event_id));
    RETURN 'ok';
END $$;

-- What the routes under /v1/webhook_… do in the database.
CREATE OR REPLACE FUNCTION webhook_manage(p_key_hash bytea, p_act text, p_arguments jsonb) RETURNS webhook_answer
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    caller record := key_check(p_key_hash,
                               CASE WHEN p_act IN ('show', 'list', 'events', 'event') THEN 'read' ELSE 'submit' END);
    result webhook_answer;
BEGIN
    IF caller.outcome <> 'ok' THEN
        result.outcome := caller.outcome;
        RETURN result;
    END IF;
    result := webhook_act(caller.user_id, 'openai', caller.key_id, p_act, p_arguments);
    IF caller.is_stale THEN
        PERFORM key_touch(caller.key_id);
    END IF;
    RETURN result;
END $$;
COMMENT ON FUNCTION webhook_manage(bytea, text, jsonb) IS
    'See webhook_act; or a refusal of key_check. What only reads needs the scope read, all else submit.';

CALL define_type('webhook_testing', $$outcome text, claim jsonb$$);

-- A test: an event that is about nothing, claimed by the caller, who has it sent and settles.
CREATE OR REPLACE FUNCTION webhook_test(
    p_key_hash bytea, p_endpoint_id uuid, p_event_type text, p_lease_seconds double precision
)
    RETURNS webhook_testing
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    at     constant timestamptz := clock_now();
    caller record := key_check(p_key_hash, 'submit');
    w      webhook_endpoints;
    v      webhook_events;
    result webhook_testing;
BEGIN
    result.outcome := caller.outcome;
    IF caller.outcome <> 'ok' THEN
        RETURN result;
    END IF;
    w := webhook_lock(caller.user_id, p_endpoint_id);
    IF w.endpoint_id IS NULL THEN
        result.outcome := 'webhook_endpoint_not_found';
        RETURN result;
    ELSIF (SELECT count(*) FROM webhook_events e
           WHERE e.endpoint_id = w.endpoint_id AND e.leased_until > at) >= w.max_concurrency
    THEN
        result.outcome := 'webhook_endpoint_busy';
        RETURN result;
    END IF;
    INSERT INTO webhook_events
        (user_id, endpoint_id, event_type, data_id, created_at, expires_at, attempts, max_attempts, next_attempt_at,
         leased_until)
    VALUES (w.user_id, w.endpoint_id, p_event_type,
            CASE WHEN p_event_type LIKE 'batch.%' THEN 'batch_' ELSE 'resp_' END || replace(uuidv7()::text, '-', ''),
            at,
            at + interval '1 hour', 1, 1, at + make_interval(secs => p_lease_seconds),
            at + make_interval(secs => p_lease_seconds))
    RETURNING * INTO v;
    PERFORM webhook_audit('openai', 'webhook.tested', w, caller.key_id, jsonb_build_object('event_type', p_event_type));
    result.claim := to_jsonb(ROW(
        v.event_id, v.attempts, w.endpoint_id, w.url, v.event_type, v.data_id, v.created_at, w.secret,
        CASE WHEN w.old_secret_until > at THEN w.old_secret END, at)::webhook_claim);
    RETURN result;
END $$;
COMMENT ON FUNCTION webhook_test(bytea, uuid, text, double precision) IS
    'ok with the claim, which has the secrets: sign, send, and webhook_settle; webhook_endpoint_not_found, '
    'webhook_endpoint_busy, or a refusal of key_check.';
