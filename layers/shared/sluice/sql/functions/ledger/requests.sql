-- Invariants of requests; see ledger_verify().

-- The requests in scope. A single SELECT, so that PostgreSQL plans it together with the query that calls it, and leaves
-- out the parts that cannot match.
CREATE OR REPLACE FUNCTION requests_to_verify(p_full boolean, p_today uuid, p_touched uuid[]) RETURNS SETOF requests
    LANGUAGE sql STABLE AS $$
    SELECT * FROM requests_all WHERE p_full
    UNION ALL
    SELECT r.* FROM requests r WHERE NOT p_full AND r.request_id >= p_today
    UNION ALL
    SELECT r.* FROM unnest(p_touched) AS t (id) JOIN requests_all r ON r.request_id = t.id
    WHERE NOT p_full AND r.request_id < p_today;
$$;

-- Every request was audited when it was accepted and, if it is finished, was settled and audited exactly once. It
-- agrees with those audit rows: in its user, key, model and completion window, in what it reserved, how it ended and
-- with how many tokens.
CREATE OR REPLACE FUNCTION request_settled_once(p_full boolean, p_today uuid, p_touched uuid[]) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    -- No audit row of a request is older than the request (or than today, if a test moves the clock); one hour allows
    -- for a clock that was set back.
    oldest uuid := CASE WHEN p_full THEN '00000000-0000-0000-0000-000000000000' ELSE
        least(p_today, uuidv7_floor(period_start('daily', clock_timestamp()) - interval '1 hour'),
              (SELECT t.id FROM unnest(p_touched) AS t (id) ORDER BY t.id LIMIT 1)) END;
BEGIN
    RETURN QUERY
        WITH entries AS (
            SELECT a.request_id, a.user_id, a.key_id, a.after, a.before,
                   a.action = 'request.queued' AS accepted, a.action = 'request.redriven' AS redriven
            FROM audit_log a
            WHERE a.audit_id >= oldest
              AND a.action IN ('request.queued', 'request.completed', 'request.failed', 'request.cancelled',
                               'request.expired', 'request.redriven', 'request.cached')
        ), audited AS (
            -- A redrive undoes one end: the failure that it names, with the tokens of that failure.
            SELECT t.request_id,
                   count(*) FILTER (WHERE t.accepted) AS accepted,
                   count(*) FILTER (WHERE NOT t.accepted AND NOT t.redriven) - count(*) FILTER (WHERE t.redriven)
                       AS ended,
                   count(*) FILTER (WHERE t.redriven) AS redriven,
                   max(t.user_id) AS user_id, min(t.user_id) AS other_user_id,
                   max(t.key_id::text) AS key_id,
                   max(t.after->>'model_id') AS model_id,
                   max((t.after->>'reserved_tokens')::integer) AS reserved_tokens,
                   max(t.after->>'window') AS completion_window, max((t.after->>'due_at')::timestamptz) AS due_at,
                   nullif(concat_ws(' and ',
                       CASE WHEN count(*) FILTER (WHERE t.after->>'status' = 'completed') > 0 THEN 'completed' END,
                       CASE WHEN count(*) FILTER (WHERE t.after->>'status' = 'failed')
                                 > count(*) FILTER (WHERE t.redriven) THEN 'failed' END,
                       CASE WHEN count(*) FILTER (WHERE t.after->>'status' = 'cancelled') > 0 THEN 'cancelled' END,
                       CASE WHEN count(*) FILTER (WHERE t.after->>'status' = 'expired') > 0 THEN 'expired' END), '')
                       AS status,
                   nullif(sum((t.after->>'prompt_tokens')::integer), CASE WHEN bool_or(t.redriven) THEN 0 END)
                       AS prompt_tokens,
                   nullif(sum((t.after->>'completion_tokens')::integer), CASE WHEN bool_or(t.redriven) THEN 0 END)
                       AS completion_tokens,
                   coalesce(sum((t.before->>'prompt_tokens')::integer) FILTER (WHERE t.redriven), 0)
                       AS undone_prompt_tokens,
                   coalesce(sum((t.before->>'completion_tokens')::integer) FILTER (WHERE t.redriven), 0)
                       AS undone_completion_tokens,
                   coalesce(sum((t.after->>'cached_tokens')::integer), 0)
                       - coalesce(sum((t.before->>'cached_tokens')::integer) FILTER (WHERE t.redriven), 0)
                       AS cached_tokens,
                   coalesce(sum((t.after->>'reasoning_tokens')::integer), 0)
                       - coalesce(sum((t.before->>'reasoning_tokens')::integer) FILTER (WHERE t.redriven), 0)
                       AS reasoning_tokens
            FROM entries t
            GROUP BY t.request_id
        )
        SELECT coalesce(r.user_id, a.user_id)::text, coalesce(r.request_id, a.request_id), NULL::text,
               CASE WHEN a.request_id IS NULL THEN 'audited' ELSE
                   format('accepted %s, ended %s, as %s; %s, key %s, %s, reserved %s, tokens %s + %s '
                          '(cached %s, reasoning %s)%s',
                          a.accepted, a.ended, a.status, a.user_id, a.key_id, a.model_id, a.reserved_tokens,
                          a.prompt_tokens, a.completion_tokens, a.cached_tokens, a.reasoning_tokens,
                          ', due ' || a.due_at || ' within ' || a.completion_window) END,
               CASE WHEN r.request_id IS NULL THEN 'no request' ELSE
                   format('%s; %s, key %s, %s, reserved %s, tokens %s + %s (cached %s, reasoning %s)%s', r.status,
                          r.user_id, r.key_id, r.model_id, r.reserved_tokens, r.prompt_tokens, r.completion_tokens,
                          coalesce(r.cached_tokens, 0), coalesce(r.reasoning_tokens, 0),
                          ', due ' || r.due_at || ' within ' || r.completion_window) END
        FROM requests_to_verify(p_full, p_today, p_touched) r
        FULL JOIN audited a ON a.request_id = r.request_id
        WHERE (p_full OR r.request_id IS NOT NULL)
          AND (r.request_id IS NULL
               OR (a.completion_window, a.due_at) IS DISTINCT FROM (r.completion_window, r.due_at)
               OR (a.accepted, a.ended, a.user_id, a.other_user_id, a.key_id, a.model_id, a.reserved_tokens,
                   coalesce(a.status, r.status), a.prompt_tokens, a.completion_tokens, a.cached_tokens,
                   a.reasoning_tokens)
                  IS DISTINCT FROM
                  (1, CASE WHEN r.completed_at IS NULL THEN 0 ELSE 1 END, r.user_id, r.user_id, r.key_id::text,
                   r.model_id, r.reserved_tokens, r.status,
                   CASE WHEN a.redriven = 0 THEN r.prompt_tokens
                        ELSE nullif(coalesce(r.prompt_tokens, 0) + a.undone_prompt_tokens, 0) END,
                   CASE WHEN a.redriven = 0 THEN r.completion_tokens
                        ELSE nullif(coalesce(r.completion_tokens, 0) + a.undone_completion_tokens, 0) END,
                   coalesce(r.cached_tokens, 0), coalesce(r.reasoning_tokens, 0)))
        LIMIT 100;
END $$;

-- Every unfinished request has one inflight row, in the same state, and its prompt; no other request has an inflight
-- row.
CREATE OR REPLACE FUNCTION inflight_is_what_is_unfinished(p_full boolean, p_today uuid, p_touched uuid[])
    RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
        SELECT r.user_id::text, r.request_id, NULL::text,
               format('an inflight row, %s, attempt %s', r.status, r.attempts), 'none'
        FROM requests_to_verify(p_full, p_today, p_touched) r
        WHERE r.completed_at IS NULL AND NOT EXISTS (SELECT FROM inflight i WHERE i.request_id = r.request_id)
        UNION ALL
        SELECT i.user_id::text, i.request_id, NULL::text,
               coalesce(format('%s, attempt %s', r.status, r.attempts), 'no request'),
               format('%s, attempt %s', i.status, i.attempt)
        FROM inflight i
        LEFT JOIN requests_all r ON r.request_id = i.request_id
        WHERE (r.status, r.attempts, r.user_id) IS DISTINCT FROM (i.status, i.attempt, i.user_id)
        UNION ALL
        SELECT i.user_id::text, i.request_id, NULL::text, 'a prompt', 'none'
        FROM inflight i
        WHERE NOT EXISTS (SELECT FROM prompts p WHERE p.request_id = i.request_id)
        LIMIT 100;
END $$;

-- Every completed request has exactly one result, and no other request has a result. If its model answers with files,
-- the file is there too; no file is there without its result.
CREATE OR REPLACE FUNCTION result_is_kept(p_full boolean, p_today uuid, p_touched uuid[]) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    -- The ids of results carry the real time, even if a test moves the clock.
    oldest uuid := least(p_today, uuidv7_floor(period_start('daily', clock_timestamp())));
BEGIN
    RETURN QUERY
        SELECT r.user_id::text, r.request_id, NULL::text, 'result ' || r.result_id, 'none'
        FROM requests_to_verify(p_full, p_today, p_touched) r
        WHERE r.status = 'completed'
          AND NOT EXISTS (SELECT FROM results s
                          WHERE s.result_id = r.result_id AND s.request_id = coalesce(r.cached_from, r.request_id))
        UNION ALL
        SELECT r.user_id::text, s.request_id, NULL::text, coalesce('result ' || r.result_id, 'no result'),
               'result ' || s.result_id
        FROM results s
        LEFT JOIN requests_all r ON r.request_id = s.request_id
        WHERE (p_full OR s.result_id >= oldest)
          AND r.result_id IS DISTINCT FROM s.result_id
        UNION ALL
        SELECT r.user_id::text, r.request_id, NULL::text, 'file ' || r.result_id, 'none'
        FROM requests_to_verify(p_full, p_today, p_touched) r
        JOIN models m ON m.model_id = r.model_id AND m.kind IN ('image', 'speech')
        WHERE r.status = 'completed'
          AND NOT EXISTS (SELECT FROM binary_results b
                          WHERE b.result_id = r.result_id AND b.request_id = coalesce(r.cached_from, r.request_id))
        UNION ALL
        SELECT NULL::text, b.request_id, NULL::text, 'no file', 'file ' || b.result_id
        FROM binary_results b
        WHERE (p_full OR b.result_id >= oldest)
          AND NOT EXISTS (SELECT FROM results s WHERE s.result_id = b.result_id AND s.request_id = b.request_id)
        LIMIT 100;
END $$;

-- A part of result_is_kept: an answer that was given again is that of an equal request of the same user, which was
-- completed with it itself.
CREATE OR REPLACE FUNCTION shared_with_its_user(p_full boolean, p_today uuid, p_touched uuid[]) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
        SELECT r.user_id::text, r.request_id, NULL::text,
               format('%s, result %s', r.user_id, r.result_id),
               CASE WHEN s.request_id IS NULL THEN 'none' ELSE format('%s, result %s', s.user_id, s.result_id) END
        FROM requests_to_verify(p_full, p_today, p_touched) r
        LEFT JOIN requests_all s ON s.request_id = r.cached_from AND s.cached_from IS NULL
        WHERE r.cached_from IS NOT NULL
          AND (r.user_id, r.model_id, r.result_id, 0) IS DISTINCT FROM
              (s.user_id, s.model_id, s.result_id, r.total_tokens)
        UNION ALL
        SELECT c.user_id::text, c.request_id, NULL::text, 'a request of the user with the result ' || c.result_id,
               'none'
        FROM answer_cache c
        WHERE c.result_id IS NOT NULL AND (p_full OR c.request_id >= p_today)
          AND NOT EXISTS (SELECT FROM requests_all s
                          WHERE s.request_id = c.request_id AND s.user_id = c.user_id AND s.result_id = c.result_id)
        LIMIT 100;
END $$;

-- A part of inflight_is_what_is_unfinished: whoever follows a request follows one that is unfinished, equal and of the
-- same user and at least as urgent, and follows nobody itself. And whoever asks for others is unfinished.
CREATE OR REPLACE FUNCTION followers_have_leaders() RETURNS SETOF violation
    LANGUAGE sql STABLE AS $$
    SELECT i.user_id::text, i.request_id, NULL::text, 'follows an equal, unfinished request', 'request ' || i.follows
    FROM inflight i
    LEFT JOIN inflight l ON l.request_id = i.follows
    WHERE i.follows IS NOT NULL
      AND (l.follows IS NOT NULL OR i.status <> 'queued' OR i.dispatched_at IS NOT NULL
           OR (l.user_id, l.fingerprint, l.cache_scope) IS DISTINCT FROM (i.user_id, i.fingerprint, i.cache_scope)
           OR l.priority > i.priority)
    UNION ALL
    SELECT c.user_id::text, c.leader_id, NULL::text, 'an unfinished request', 'none'
    FROM answer_cache c
    LEFT JOIN inflight l ON l.request_id = c.leader_id
    WHERE c.leader_id IS NOT NULL
      AND (l.follows IS NOT NULL
           OR (l.user_id, l.fingerprint, l.cache_scope) IS DISTINCT FROM (c.user_id, c.fingerprint, c.cache_scope))
    LIMIT 100;
$$;

-- A part of request_settled_once: what is charged by model adds up to the request's tokens, and is what the charged
-- calls of its attempts add up to.
CREATE OR REPLACE FUNCTION charges_add_up(p_full boolean, p_today uuid, p_touched uuid[]) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
        WITH called AS (
            SELECT a.request_id, jsonb_agg(to_jsonb(a)) AS calls
            FROM attempts a
            WHERE p_full OR a.request_id >= p_today OR a.request_id = ANY (p_touched)
            GROUP BY a.request_id
        )
        SELECT r.user_id::text, coalesce(r.request_id, t.request_id), NULL::text,
               format('%s; tokens %s + %s (cached %s, reasoning %s)',
                      coalesce(calls_charges(t.calls)::text, 'no charges'), r.prompt_tokens, r.completion_tokens,
                      r.cached_tokens, r.reasoning_tokens),
               coalesce(r.charges::text, 'no charges')
        FROM (SELECT * FROM requests_to_verify(p_full, p_today, p_touched)) AS r
        FULL JOIN called t ON t.request_id = r.request_id
        LEFT JOIN LATERAL (
            SELECT sum(c.prompt_tokens) AS prompt_tokens, sum(c.completion_tokens) AS completion_tokens,
                   sum(c.cached_tokens) AS cached_tokens, sum(c.reasoning_tokens) AS reasoning_tokens
            FROM request_charges(r.model_id, r.charges, NULL, NULL, NULL, NULL, false) AS c
        ) AS s ON true
        WHERE r.charges IS DISTINCT FROM calls_charges(t.calls)
           OR r.charges IS NOT NULL
              AND (s.prompt_tokens, s.completion_tokens, s.cached_tokens, s.reasoning_tokens)
                  IS DISTINCT FROM (r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.reasoning_tokens)
        LIMIT 100;
END $$;
