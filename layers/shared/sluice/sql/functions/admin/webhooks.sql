-- Administrative operations on webhooks: what their users can do, except to see a secret.

CREATE OR REPLACE FUNCTION admin_webhook_act(a jsonb, p_act text) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    owner  text := coalesce(
        a->>'user_id',
        (SELECT w.user_id FROM webhook_endpoints w WHERE w.endpoint_id = (a->>'endpoint_id')::uuid),
        (SELECT v.user_id FROM webhook_events v WHERE v.event_id = (a->>'event_id')::uuid));
    result webhook_answer;
BEGIN
    IF owner IS NULL THEN
        PERFORM admin_refuse(CASE WHEN a ? 'event_id' THEN 'webhook_event_not_found'
                                  ELSE 'webhook_endpoint_not_found' END);
    END IF;
    PERFORM admin_user_lock(owner);
    result := webhook_act(owner, 'admin', NULL, p_act, a);
    IF result.outcome <> 'ok' THEN
        PERFORM admin_refuse(result.outcome);
    END IF;
    RETURN result.value;
END $$;

CREATE OR REPLACE FUNCTION admin_webhook_enable(a jsonb) RETURNS jsonb
    LANGUAGE sql RETURN admin_webhook_act(a, 'enable');
CREATE OR REPLACE FUNCTION admin_webhook_disable(a jsonb) RETURNS jsonb
    LANGUAGE sql RETURN admin_webhook_act(a, 'disable');
CREATE OR REPLACE FUNCTION admin_webhook_delete(a jsonb) RETURNS jsonb
    LANGUAGE sql RETURN admin_webhook_act(a, 'delete');
CREATE OR REPLACE FUNCTION admin_webhook_redeliver(a jsonb) RETURNS jsonb
    LANGUAGE sql RETURN admin_webhook_act(a, 'redeliver');

-- A user's endpoints, and the latest events of one user or of one endpoint.
CREATE OR REPLACE FUNCTION webhook_list(p_user_id text) RETURNS SETOF jsonb
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT webhook_endpoint_json(w) FROM webhook_endpoints w
    WHERE w.user_id = p_user_id AND w.url IS NOT NULL ORDER BY w.endpoint_id DESC;
$$;

CREATE OR REPLACE FUNCTION webhook_event_list(p_user_id text, p_state text, p_limit integer) RETURNS SETOF jsonb
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT webhook_event_json(v) FROM webhook_events v
    WHERE v.user_id = p_user_id AND (p_state IS NULL OR v.state = p_state)
    ORDER BY v.event_id DESC LIMIT p_limit;
$$;
