-- Circuit breakers: a model whose calls fail one after the other is not called for a while, except by one request at a
-- time, the probe. model_breakers has rows only of models that fail now, and mostly none: then this costs nothing.

-- After so many failures without a success, none longer after the one before than this, the breaker opens. The pause
-- before a probe doubles with each that fails, between these two.
CREATE OR REPLACE FUNCTION breaker_rules(
    OUT failures integer, OUT memory interval, OUT first_pause integer, OUT longest_pause integer
)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 5, interval '10 minutes', 10, 60;
$$;

-- When a request may call the first of its models again; NULL: one of them can be called now, as far as is known.
CREATE OR REPLACE FUNCTION breaker_until(p_request_id uuid) RETURNS timestamptz
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT CASE WHEN count(*) = count(b.probe_at) THEN min(b.probe_at) END
        FROM requests r
        CROSS JOIN LATERAL question_find(r.request_id) AS p
        CROSS JOIN LATERAL unnest(request_models(r.model_id, p.handling)) AS c (model_id)
        LEFT JOIN model_breakers b ON b.model_id = c.model_id
        WHERE r.request_id = p_request_id);
END $$;

-- Of the requests that are due, those that may call one of their models now. The others wait for the next probe.
-- probes: which model a request calls as its probe, by request.
CREATE OR REPLACE FUNCTION claim_admit(p_ids uuid[], p_at timestamptz, OUT ids uuid[], OUT probes jsonb)
    LANGUAGE plpgsql AS $$
DECLARE
    r        record;
    model    text;
    probe_at timestamptz;
    until    timestamptz;
    may_call boolean;
BEGIN
    ids := '{}';
    probes := '{}';
    FOR r IN
        SELECT i.request_id, i.is_queued, q.model_id, p.handling
        FROM (SELECT w.request_id, w.status = 'queued' AS is_queued FROM inflight w
              WHERE w.request_id = ANY (p_ids) AND w.dispatched_at IS NOT NULL
                AND (w.status = 'queued' OR w.lease_until < p_at)
                AND coalesce(w.not_before, p_at) <= p_at AND w.expires_at > p_at AND w.cancel_requested_at IS NULL
              ORDER BY w.request_id FOR UPDATE SKIP LOCKED) AS i
        JOIN requests q ON q.request_id = i.request_id
        CROSS JOIN LATERAL question_find(i.request_id) AS p
    LOOP
        until := NULL;
        may_call := false;
        FOREACH model IN ARRAY request_models(r.model_id, r.handling) LOOP
            SELECT b.probe_at INTO probe_at FROM model_breakers b WHERE b.model_id = model;
            may_call := probe_at IS NULL;
            EXIT WHEN may_call;
            -- The next probe comes when this one has ended, or must have.
            UPDATE model_breakers b
            SET probe_at = p_at + make_interval(secs => greatest(b.pause_seconds, m.timeout_seconds))
            FROM models m
            WHERE m.model_id = model AND b.model_id = (
                SELECT o.model_id FROM model_breakers o
                WHERE o.model_id = model AND o.probe_at <= p_at FOR UPDATE SKIP LOCKED);
            may_call := FOUND;
            IF may_call THEN
                probes := probes || jsonb_build_object(r.request_id, model);
                EXIT;
            END IF;
            until := least(until, probe_at);
        END LOOP;
        IF may_call THEN
            ids := ids || r.request_id;
        ELSIF r.is_queued THEN
            -- At least a second, so that it is not looked at all the time.
            UPDATE inflight i SET
                not_before = greatest(until, p_at + interval '1 second'), is_held = true, dispatched_at = NULL
            WHERE i.request_id = r.request_id;
        END IF;
    END LOOP;
END $$;

-- What a worker is told about a request beside its model; see sluice.domain.requests.Plan. NULL: nothing.
CREATE OR REPLACE FUNCTION claim_plan(
    p_request_id uuid, p_model_id text, p_handling jsonb, p_last_error text, p_probes jsonb
)
    RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    ids constant text[] := request_models(p_model_id, p_handling);
BEGIN
    RETURN (
        SELECT nullif(jsonb_strip_nulls(jsonb_build_object(
            'fallbacks', (
                SELECT jsonb_agg(to_jsonb(m) - '{fallbacks,created_at,updated_at}'::text[] ORDER BY f.n)
                FROM unnest(ids[2:]) WITH ORDINALITY AS f (id, n)
                JOIN models m ON m.model_id = f.id AND m.is_active),
            'repair_attempts', nullif(greatest(request_repairs(p_handling) - CASE WHEN p_last_error IS NOT NULL THEN (
                SELECT count(*) FROM attempts a
                WHERE a.request_id = p_request_id AND a.cause = 'schema_mismatch') ELSE 0 END, 0), 0),
            'probe', p_probes->>p_request_id::text,
            'skip', (
                SELECT jsonb_agg(b.model_id) FROM model_breakers b
                WHERE b.model_id = ANY (ids) AND b.opened_at IS NOT NULL
                  AND b.model_id IS DISTINCT FROM p_probes->>p_request_id::text),
            'failing', (SELECT jsonb_agg(b.model_id) FROM model_breakers b WHERE b.model_id = ANY (ids)))), '{}'));
END $$;

-- What outcomes tell about models. After everything else in a settlement: these rows are locked last, in the order of
-- their names.
CREATE OR REPLACE FUNCTION breakers_note(p_outcomes outcome[], p_actor text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    rules record := breaker_rules();
    at    timestamptz := clock_now();
    said  record;
    b     model_breakers;
BEGIN
    FOR said IN
        SELECT m.model_id, coalesce(f.failures, 0) AS failures, f.is_probe, f.last_error,
               m.model_id IN (SELECT o.recovered FROM unnest(p_outcomes) AS o) AS has_recovered
        FROM models m
        LEFT JOIN (
            SELECT c.model_id, count(*) AS failures, bool_or(c.is_probe) AS is_probe,
                   (array_agg(c.cause ORDER BY c.ended_at DESC))[1] AS last_error
            FROM unnest(p_outcomes) AS o
            CROSS JOIN LATERAL jsonb_to_recordset(o.calls) AS c (
                model_id text, cause text, ended_at timestamptz, is_outage boolean, is_probe boolean)
            WHERE c.is_outage
            GROUP BY c.model_id
        ) AS f ON f.model_id = m.model_id
        WHERE f.failures > 0 OR m.model_id IN (SELECT o.recovered FROM unnest(p_outcomes) AS o)
        ORDER BY m.model_id
    LOOP
        IF said.has_recovered THEN
            PERFORM breaker_close(said.model_id, p_actor);
            CONTINUE;
        END IF;
        INSERT INTO model_breakers AS t (model_id, failures, last_error, updated_at)
        VALUES (said.model_id, said.failures, said.last_error, at)
        ON CONFLICT (model_id) DO UPDATE SET
            failures = EXCLUDED.failures + CASE WHEN t.opened_at IS NOT NULL OR t.updated_at > at - rules.memory
                                                THEN t.failures ELSE 0 END,
            last_error = EXCLUDED.last_error, updated_at = at
        RETURNING * INTO b;
        IF b.opened_at IS NULL AND b.failures >= rules.failures THEN
            UPDATE model_breakers t SET opened_at = at, pause_seconds = rules.first_pause,
                   probe_at = at + make_interval(secs => rules.first_pause)
            WHERE t.model_id = b.model_id;
            PERFORM audit_write(p_actor, ARRAY[ROW('model.breaker_opened', NULL, NULL, NULL, NULL, jsonb_build_object(
                'model_id', b.model_id, 'failures', b.failures, 'error_code', b.last_error))::audit_entry]);
        ELSIF said.is_probe THEN
            UPDATE model_breakers t SET pause_seconds = p.seconds, probe_at = at + make_interval(secs => p.seconds)
            FROM (SELECT least(b.pause_seconds * 2, rules.longest_pause) AS seconds) AS p
            WHERE t.model_id = b.model_id;
        END IF;
    END LOOP;
END $$;

-- The model is called again, like any other. Requests that breakers hold are let go; those whose models are all out of
-- service still will be held again.
CREATE OR REPLACE FUNCTION breaker_close(p_model_id text, p_actor text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    b model_breakers;
BEGIN
    DELETE FROM model_breakers t WHERE t.model_id = p_model_id RETURNING * INTO b;
    IF b.opened_at IS NOT NULL THEN
        -- Without waiting for rows that others have locked, who may wait for this transaction.
        UPDATE inflight i SET not_before = NULL, is_held = false
        FROM (SELECT h.request_id FROM inflight h
              WHERE h.is_held AND h.status = 'queued' FOR UPDATE SKIP LOCKED) AS held
        WHERE i.request_id = held.request_id;
        PERFORM audit_write(p_actor, ARRAY[ROW('model.breaker_closed', NULL, NULL, NULL, NULL, jsonb_build_object(
            'model_id', p_model_id, 'failures', b.failures, 'opened_at', b.opened_at))::audit_entry]);
    END IF;
END $$;

-- The state of a model's breaker, for operators: closed, failing, open.
CREATE OR REPLACE FUNCTION breaker_json(p_model_id text) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT jsonb_strip_nulls(jsonb_build_object(
                    'state', CASE WHEN b.opened_at IS NULL THEN 'failing' ELSE 'open' END, 'failures', b.failures,
                    'last_error', b.last_error, 'opened_at', b.opened_at, 'probe_at', b.probe_at))
         FROM model_breakers b WHERE b.model_id = p_model_id),
        '{"state": "closed"}');
$$;
