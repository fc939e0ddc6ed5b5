-- Events of webhooks: written in the commit that ends a request, one for each endpoint that wants to be told.

-- Pauses after the first, second … attempt, in seconds, as the Standard Webhooks have them: about three days in all.
-- Each is drawn out by up to a tenth. lives: after that an event is dead, whatever it waited for.
-- After so many failures without a success an endpoint gets one attempt at a time, after a pause that doubles between
-- these two. most_endpoints: of a user. most_at_once: events of a user that are sent at a time, so that nobody whose
-- receivers hang keeps all claimers busy. kept: how long ended events are listed.
CREATE OR REPLACE FUNCTION webhook_rules(
    OUT pauses integer[], OUT lives interval, OUT failures integer, OUT first_pause integer, OUT longest_pause integer,
    OUT most_endpoints integer, OUT kept interval, OUT old_secret_lives interval, OUT most_at_once integer
)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '{5,300,1800,7200,18000,36000,50400,72000,86400}'::integer[], interval '4 days', 10, 10, 60, 20,
           interval '30 days', interval '24 hours', 10;
$$;

-- How many attempts the schedule has.
CREATE OR REPLACE FUNCTION webhook_attempts() RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (cardinality((webhook_rules()).pauses) + 1)::smallint;

-- What has happened, in the words of OpenAI's events. A request that expired is one that failed, as its client sees it.
CREATE OR REPLACE FUNCTION webhook_event_type(p_status text, p_finish_reason text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN p_status = 'cancelled' THEN 'response.cancelled'
                WHEN p_status <> 'completed' THEN 'response.failed'
                WHEN p_finish_reason IN ('length', 'content_filter') THEN 'response.incomplete'
                ELSE 'response.completed' END;

-- The id by which a client knows its request: that of the API by which it came. sluice.api.openai.ids makes the same.
CREATE OR REPLACE FUNCTION client_id(p_request_id uuid, p_surface jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE p_surface->>'api' WHEN 'responses' THEN 'resp_' || replace(p_request_id::text, '-', '')
                                  WHEN 'chat' THEN 'chatcmpl-' || replace(p_request_id::text, '-', '')
                                  ELSE p_request_id::text END;

-- Writes the events of requests that have ended, for users of whom one has endpoints or requests with an URL of their
-- own. Returns the requests of which there is an event.
CREATE OR REPLACE FUNCTION webhooks_note(p_request_ids uuid[], p_at timestamptz) RETURNS uuid[]
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    told uuid[];
BEGIN
    WITH ended AS (
        SELECT r.request_id, r.user_id, webhook_event_type(r.status, r.finish_reason) AS event_type,
               client_id(r.request_id, a.surface) AS data_id, x.handling->>'webhook' AS url
        FROM requests r
        CROSS JOIN LATERAL asked_find(r.request_id) AS a
        CROSS JOIN LATERAL extras_find(r.request_id) AS x
        WHERE r.request_id = ANY (p_request_ids)
    ), written AS (
        INSERT INTO webhook_events
            (user_id, endpoint_id, request_id, url, event_type, data_id, created_at, expires_at, max_attempts,
             next_attempt_at)
        SELECT e.user_id, w.endpoint_id, e.request_id, CASE WHEN w.url IS NULL THEN e.url END, e.event_type,
               e.data_id, p_at, p_at + (webhook_rules()).lives, webhook_attempts(), p_at
        FROM ended e
        JOIN webhook_endpoints w ON w.user_id = e.user_id AND w.disabled_at IS NULL
            AND CASE WHEN w.url IS NULL THEN e.url IS NOT NULL ELSE e.event_type = ANY (w.event_types) END
        RETURNING request_id
    )
    SELECT array_agg(DISTINCT w.request_id) INTO told FROM written w;
    RETURN coalesce(told, '{}');
END $$;
