-- Usage by what distinguishes a user's requests: the API key (attribute "key"), and each member of the metadata
-- (attribute "tag:NAME"). Added up from the audit log like usage itself.

-- The attributes of a request, with its value of each. A value of a tag that is longer than 128 characters has no row
-- of its own in usage_by_attribute. The view submissions takes metadata of any form: what is no name with a single
-- value is no tag.
CREATE OR REPLACE FUNCTION request_attributes(
    p_key_id uuid, p_metadata jsonb, OUT attribute text, OUT value text
)
    RETURNS SETOF record
    LANGUAGE sql IMMUTABLE AS $$
    SELECT 'key', p_key_id::text
    UNION ALL
    SELECT 'tag:' || m.key, CASE WHEN length(m.value #>> '{}') <= 128 THEN m.value #>> '{}' END
    FROM jsonb_each(CASE jsonb_typeof(p_metadata) WHEN 'object' THEN p_metadata ELSE '{}' END) AS m
    WHERE length(m.key) <= 64 AND jsonb_typeof(m.value) IN ('string', 'number', 'boolean');
$$;

CALL define_type('attribute_usage', $$
    user_id text, day date, attribute text, value text, model_id text, requests_count bigint, prompt_tokens bigint,
    completion_tokens bigint, cached_tokens bigint, reasoning_tokens bigint, cached_answers bigint,
    completion_window text
$$);

CREATE OR REPLACE FUNCTION attribute_events(
    p_low bigint, p_high bigint, p_user_id text DEFAULT NULL, p_attribute text DEFAULT NULL
)
    RETURNS SETOF attribute_usage
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
        SELECT e.user_id, (e.created_at AT TIME ZONE 'UTC')::date, a.attribute, a.value, e.model_id,
               sum(e.queued), sum(e.prompt_tokens), sum(e.completion_tokens), sum(e.cached_tokens),
               sum(e.reasoning_tokens), sum(e.cached_answers), e.completion_window
        FROM request_events(p_low, p_high, p_user_id) AS e
        LEFT JOIN prompts p ON p.request_id = e.request_id
        CROSS JOIN LATERAL request_attributes(e.key_id, p.metadata) AS a
        WHERE p_attribute IS NULL OR a.attribute = p_attribute
        GROUP BY 1, 2, 3, 4, 5, e.completion_window;
END $$;
COMMENT ON FUNCTION attribute_events(bigint, bigint, text, text) IS
    'Like usage_events(), by attribute: all, or the one named.';

-- A tag may have a new value with every request. So many different values of a tag are kept by themselves for a user
-- and day; those after them are added up in the row whose value is NULL.
CREATE OR REPLACE FUNCTION attribute_values_limit() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 1000;

CREATE OR REPLACE FUNCTION rollup_attributes() RETURNS void
    LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    span record;
BEGIN
    span := rollup_advance('attributes');
    WITH events AS MATERIALIZED (
        SELECT * FROM attribute_events(span.low, span.high)
    ), kept AS MATERIALIZED (
        SELECT DISTINCT u.user_id::text, u.day, u.attribute::text, u.value::text
        FROM (SELECT DISTINCT e.user_id, e.day, e.attribute FROM events e) AS t
        JOIN usage_by_attribute u ON u.user_id = t.user_id AND u.day = t.day AND u.attribute = t.attribute
        WHERE u.value IS NOT NULL
    ), fresh AS (
        SELECT e.user_id, e.day, e.attribute, e.value FROM events e WHERE e.value IS NOT NULL
        EXCEPT
        SELECT k.user_id, k.day, k.attribute, k.value FROM kept k
    ), surplus AS (
        SELECT n.user_id, n.day, n.attribute, n.value
        FROM (SELECT f.*, row_number() OVER (PARTITION BY f.user_id, f.day, f.attribute ORDER BY f.value) AS number
              FROM fresh f) AS n
        WHERE n.attribute <> 'key'
          AND n.number + (SELECT count(*) FROM kept k
                          WHERE (k.user_id, k.day, k.attribute) = (n.user_id, n.day, n.attribute))
              > attribute_values_limit()
    )
    INSERT INTO usage_by_attribute AS u
        (user_id, day, attribute, value, model_id, requests_count, prompt_tokens, completion_tokens, cached_tokens,
         reasoning_tokens, cached_answers, completion_window)
    SELECT e.user_id, e.day, e.attribute, CASE WHEN s.value IS NULL THEN e.value END, e.model_id,
           sum(e.requests_count), sum(e.prompt_tokens), sum(e.completion_tokens), sum(e.cached_tokens),
           sum(e.reasoning_tokens), sum(e.cached_answers), e.completion_window
    FROM events e
    LEFT JOIN surplus s ON (s.user_id, s.day, s.attribute, s.value) = (e.user_id, e.day, e.attribute, e.value)
    GROUP BY 1, 2, 3, 4, 5, e.completion_window
    ON CONFLICT (user_id, day, attribute, value, model_id, completion_window) DO UPDATE SET
        requests_count = u.requests_count + EXCLUDED.requests_count,
        prompt_tokens = u.prompt_tokens + EXCLUDED.prompt_tokens,
        completion_tokens = u.completion_tokens + EXCLUDED.completion_tokens,
        cached_tokens = u.cached_tokens + EXCLUDED.cached_tokens,
        reasoning_tokens = u.reasoning_tokens + EXCLUDED.reasoning_tokens,
        cached_answers = u.cached_answers + EXCLUDED.cached_answers;
END $$;
COMMENT ON FUNCTION rollup_attributes() IS
    'Adds what is new in the audit log to usage_by_attribute. A part of rollup_usage(), with a watermark of its own: '
    'the first run in a database that has a history reads all of it.';

-- Usage by day, value, model and completion window up to now. A row without a value holds the rest: requests without
-- this attribute, and values that are not kept by themselves.
CREATE OR REPLACE FUNCTION attribute_usage_now(p_user_id text, p_first_day date, p_last_day date, p_attribute text)
    RETURNS SETOF attribute_usage
    LANGUAGE sql STABLE AS $$
    WITH valued AS (
        SELECT n.day, n.value, n.model_id, sum(n.requests_count) AS requests_count,
               sum(n.prompt_tokens) AS prompt_tokens, sum(n.completion_tokens) AS completion_tokens,
               sum(n.cached_tokens) AS cached_tokens, sum(n.reasoning_tokens) AS reasoning_tokens,
               sum(n.cached_answers) AS cached_answers, n.completion_window
        FROM (
            SELECT u.day, u.value::text, u.model_id::text, u.requests_count, u.prompt_tokens, u.completion_tokens,
                   u.cached_tokens, u.reasoning_tokens, u.cached_answers, u.completion_window::text
            FROM usage_by_attribute u
            WHERE u.user_id = p_user_id AND u.attribute = p_attribute AND u.day BETWEEN p_first_day AND p_last_day
            UNION ALL
            SELECT e.day, e.value, e.model_id, e.requests_count, e.prompt_tokens, e.completion_tokens,
                   e.cached_tokens, e.reasoning_tokens, e.cached_answers, e.completion_window
            FROM rollup_watermarks w
            CROSS JOIN LATERAL attribute_events(w.xact_id, 9223372036854775807, p_user_id, p_attribute) AS e
            WHERE w.task = 'attributes' AND e.day BETWEEN p_first_day AND p_last_day
        ) AS n
        WHERE n.value IS NOT NULL
        GROUP BY n.day, n.value, n.model_id, n.completion_window
    )
    SELECT p_user_id, v.day, p_attribute, v.value, v.model_id, v.requests_count::bigint, v.prompt_tokens::bigint,
           v.completion_tokens::bigint, v.cached_tokens::bigint, v.reasoning_tokens::bigint, v.cached_answers::bigint,
           v.completion_window
    FROM valued v
    UNION ALL
    SELECT p_user_id, u.day, p_attribute, NULL, u.model_id,
           (u.requests_count - coalesce(v.requests_count, 0))::bigint,
           (u.prompt_tokens - coalesce(v.prompt_tokens, 0))::bigint,
           (u.completion_tokens - coalesce(v.completion_tokens, 0))::bigint,
           (u.cached_tokens - coalesce(v.cached_tokens, 0))::bigint,
           (u.reasoning_tokens - coalesce(v.reasoning_tokens, 0))::bigint,
           (u.cached_answers - coalesce(v.cached_answers, 0))::bigint, u.completion_window
    FROM usage_now(p_user_id, p_first_day, p_last_day) AS u
    LEFT JOIN (
        SELECT x.day, x.model_id, sum(x.requests_count) AS requests_count, sum(x.prompt_tokens) AS prompt_tokens,
               sum(x.completion_tokens) AS completion_tokens, sum(x.cached_tokens) AS cached_tokens,
               sum(x.reasoning_tokens) AS reasoning_tokens, sum(x.cached_answers) AS cached_answers,
               x.completion_window
        FROM valued x GROUP BY x.day, x.model_id, x.completion_window
    ) AS v ON (v.day, v.model_id, v.completion_window) = (u.day, u.model_id, u.completion_window)
    WHERE (u.requests_count, u.prompt_tokens, u.completion_tokens, u.cached_tokens, u.reasoning_tokens,
           u.cached_answers)
          <> (coalesce(v.requests_count, 0), coalesce(v.prompt_tokens, 0), coalesce(v.completion_tokens, 0),
              coalesce(v.cached_tokens, 0), coalesce(v.reasoning_tokens, 0), coalesce(v.cached_answers, 0));
$$;
