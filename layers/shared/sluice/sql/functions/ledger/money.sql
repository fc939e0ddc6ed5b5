-- Invariants of budgets and statements; see ledger_verify().

-- Counters of a budget = the sums over the requests of its period: what the ended ones cost, and the most that the
-- unfinished ones can cost. A user with budgets is marked as one who has some.
CREATE OR REPLACE FUNCTION budget_is_the_sum(p_full boolean) RETURNS SETOF violation
    LANGUAGE sql STABLE AS $$
    SELECT b.user_id::text, NULL::uuid, budget_text(b),
           format('used %s, reserved %s', trim_scale(n.used), trim_scale(n.reserved)),
           format('used %s, reserved %s', trim_scale(b.amount_used), trim_scale(b.amount_reserved))
    FROM budget_counts_of(ARRAY(SELECT a FROM budgets a WHERE p_full OR a.reset_at > clock_now())) AS n
    JOIN budgets b ON b.budget_id = n.budget_id
    WHERE (b.amount_used, b.amount_reserved) <> (n.used, n.reserved)
    UNION ALL
    SELECT p.user_id::text, NULL::uuid, NULL::text, format('has_budgets %s', e.found),
           format('has_budgets %s', p.has_budgets)
    FROM quota_plans p
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM budgets b WHERE b.user_id = p.user_id) AS found) AS e
    WHERE p.has_budgets <> e.found
    LIMIT 100;
$$;

-- used + reserved ≤ the highest limit of the period, unless the budget was counted again in it (because a price was
-- changed), or a model reported more tokens than were reserved.
CREATE OR REPLACE FUNCTION budget_within_limit(p_full boolean) RETURNS SETOF violation
    LANGUAGE sql STABLE AS $$
    SELECT b.user_id::text, NULL::uuid, budget_text(b), format('at most %s', trim_scale(a.max_amount)),
           trim_scale(b.amount_used + b.amount_reserved)::text
    FROM budgets b
    CROSS JOIN LATERAL (
        SELECT max(l.max_amount) + (
                   SELECT coalesce(sum(greatest(s.used - s.reserved, 0)), 0)
                   FROM budget_shares(ARRAY(
                       SELECT r.request_id FROM requests_all r
                       WHERE r.user_id = b.user_id AND r.request_id >= uuidv7_floor(b.period_start)
                         AND r.request_id < uuidv7_floor(b.reset_at) AND r.total_tokens > 0)) AS s
                   WHERE budget_counts(b, s)) AS max_amount
        FROM (
            SELECT b.max_amount
            UNION ALL
            SELECT CASE o.action WHEN 'budget.changed'
                                 THEN coalesce((o.before->b.quota_period->>'max_amount')::numeric, 'infinity')
                                 ELSE 'infinity' END
            FROM audit_log o
            WHERE o.user_id = b.user_id AND o.key_id IS NOT DISTINCT FROM b.key_id
              AND o.after->>'model' IS NOT DISTINCT FROM b.model_id
              AND (o.action = 'budget.changed'
                   AND (o.after->b.quota_period->>'period_start')::timestamptz = b.period_start
                   AND o.before->b.quota_period->>'max_amount' IS DISTINCT FROM o.after->b.quota_period->>'max_amount'
                   OR o.action = 'budget.recounted' AND o.after->>'period' = b.quota_period
                      AND (o.after->>'period_start')::timestamptz = b.period_start)
        ) AS l
    ) AS a
    WHERE b.amount_used + b.amount_reserved > b.max_amount AND b.amount_used + b.amount_reserved > a.max_amount
      AND (p_full OR b.reset_at > clock_now())
    LIMIT 100;
$$;

-- Usage by attribute of some days, or of all (NULL), including what is not rolled up yet.
CREATE OR REPLACE FUNCTION attributes_kept(p_days date[]) RETURNS SETOF attribute_usage
    LANGUAGE sql STABLE AS $$
    SELECT u.user_id::text, u.day, u.attribute::text, u.value::text, u.model_id::text, u.requests_count,
           u.prompt_tokens, u.completion_tokens, u.cached_tokens, u.reasoning_tokens, u.cached_answers,
           u.completion_window::text
    FROM usage_by_attribute u WHERE p_days IS NULL OR u.day = ANY (p_days)
    UNION ALL
    SELECT e.* FROM rollup_watermarks w
    CROSS JOIN LATERAL attribute_events(w.xact_id, 9223372036854775807) AS e
    WHERE w.task = 'attributes' AND (p_days IS NULL OR e.day = ANY (p_days));
$$;

-- Usage by key adds up to usage. Where the two differ, the requests decide: if usage is what is wrong, the invariant
-- usage_is_the_sum reports it.
CREATE OR REPLACE FUNCTION keys_add_up(p_full boolean, p_touched uuid[]) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    days date[] := days_to_verify(p_touched);
BEGIN
    RETURN QUERY
        WITH wanted AS (
            SELECT u.user_id, u.day, u.model_id, u.requests_count AS requests, u.prompt_tokens, u.completion_tokens,
                   u.cached_tokens, u.reasoning_tokens, u.cached_answers, u.completion_window
            FROM usage_kept(CASE WHEN NOT p_full THEN days END) AS u
        ), kept AS (
            SELECT a.user_id, a.day, a.model_id, sum(a.requests_count) AS requests,
                   sum(a.prompt_tokens) AS prompt_tokens, sum(a.completion_tokens) AS completion_tokens,
                   sum(a.cached_tokens) AS cached_tokens, sum(a.reasoning_tokens) AS reasoning_tokens,
                   sum(a.cached_answers) AS cached_answers, a.completion_window
            FROM attributes_kept(CASE WHEN NOT p_full THEN days END) AS a
            WHERE a.attribute = 'key'
            GROUP BY 1, 2, 3, a.completion_window
        ), differing AS (
            SELECT coalesce(w.user_id, k.user_id) AS user_id, coalesce(w.day, k.day) AS day,
                   coalesce(w.model_id, k.model_id) AS model_id,
                   coalesce(k.requests, 0) AS requests, coalesce(k.prompt_tokens, 0) AS prompt_tokens,
                   coalesce(k.completion_tokens, 0) AS completion_tokens,
                   coalesce(k.cached_tokens, 0) AS cached_tokens,
                   coalesce(k.reasoning_tokens, 0) AS reasoning_tokens,
                   coalesce(k.cached_answers, 0) AS cached_answers,
                   coalesce(w.completion_window, k.completion_window) AS completion_window
            FROM wanted w
            FULL JOIN kept k
                ON (k.user_id, k.day, k.model_id, k.completion_window)
                   = (w.user_id, w.day, w.model_id, w.completion_window)
            WHERE (coalesce(w.requests, 0), coalesce(w.prompt_tokens, 0), coalesce(w.completion_tokens, 0),
                   coalesce(w.cached_tokens, 0), coalesce(w.reasoning_tokens, 0), coalesce(w.cached_answers, 0))
                  <> (coalesce(k.requests, 0), coalesce(k.prompt_tokens, 0), coalesce(k.completion_tokens, 0),
                      coalesce(k.cached_tokens, 0), coalesce(k.reasoning_tokens, 0), coalesce(k.cached_answers, 0))
        )
        SELECT d.user_id::text, NULL::uuid, usage_part(d.day, d.model_id, d.completion_window),
               usage_text(r.requests, r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.reasoning_tokens,
                          r.cached_answers),
               usage_text(d.requests, d.prompt_tokens, d.completion_tokens, d.cached_tokens, d.reasoning_tokens,
                          d.cached_answers)
        FROM differing d
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(c.requests), 0) AS requests, coalesce(sum(c.prompt_tokens), 0) AS prompt_tokens,
                   coalesce(sum(c.completion_tokens), 0) AS completion_tokens,
                   coalesce(sum(c.cached_tokens), 0) AS cached_tokens,
                   coalesce(sum(c.reasoning_tokens), 0) AS reasoning_tokens,
                   coalesce(sum(c.cached_answers), 0) AS cached_answers
            FROM requests_all q
            CROSS JOIN LATERAL request_charges(q.model_id, q.charges, q.prompt_tokens, q.completion_tokens,
                                               q.cached_tokens, q.reasoning_tokens, q.cached_from IS NOT NULL) AS c
            WHERE q.user_id = d.user_id AND c.model_id = d.model_id
              AND coalesce(q.completion_window, 'soonest') = d.completion_window
              AND q.request_id >= uuidv7_floor(d.day::timestamp AT TIME ZONE 'UTC')
              AND q.request_id < uuidv7_floor((d.day + 1)::timestamp AT TIME ZONE 'UTC')
        ) AS r
        WHERE (d.requests, d.prompt_tokens, d.completion_tokens, d.cached_tokens, d.reasoning_tokens, d.cached_answers)
              <> (r.requests, r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.reasoning_tokens,
                  r.cached_answers)
        LIMIT 100;
END $$;

-- Usage by a tag adds up to the requests that have the tag.
CREATE OR REPLACE FUNCTION tags_add_up(p_full boolean, p_touched uuid[]) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    days date[] := days_to_verify(p_touched);
BEGIN
    RETURN QUERY
        WITH wanted AS (
            SELECT r.user_id, (r.created_at AT TIME ZONE 'UTC')::date AS day, a.attribute, c.model_id,
                   sum(c.requests) AS requests, coalesce(sum(c.prompt_tokens), 0) AS prompt_tokens,
                   coalesce(sum(c.completion_tokens), 0) AS completion_tokens,
                   coalesce(sum(c.cached_tokens), 0) AS cached_tokens,
                   coalesce(sum(c.reasoning_tokens), 0) AS reasoning_tokens,
                   coalesce(sum(c.cached_answers), 0) AS cached_answers,
                   coalesce(r.completion_window, 'soonest') AS completion_window
            FROM requests_all r
            JOIN prompts p ON p.request_id = r.request_id AND p.metadata IS NOT NULL
            CROSS JOIN LATERAL request_charges(r.model_id, r.charges, r.prompt_tokens, r.completion_tokens,
                                               r.cached_tokens, r.reasoning_tokens, r.cached_from IS NOT NULL) AS c
            CROSS JOIN LATERAL request_attributes(r.key_id, p.metadata) AS a
            WHERE a.attribute <> 'key'
              AND (p_full
                   OR r.request_id >= uuidv7_floor((SELECT min(d) FROM unnest(days) AS d)::timestamp AT TIME ZONE 'UTC')
                      AND (r.created_at AT TIME ZONE 'UTC')::date = ANY (days))
            GROUP BY 1, 2, 3, 4, r.completion_window
        ), kept AS (
            SELECT a.user_id, a.day, a.attribute, a.model_id, sum(a.requests_count) AS requests,
                   sum(a.prompt_tokens) AS prompt_tokens, sum(a.completion_tokens) AS completion_tokens,
                   sum(a.cached_tokens) AS cached_tokens, sum(a.reasoning_tokens) AS reasoning_tokens,
                   sum(a.cached_answers) AS cached_answers, a.completion_window
            FROM attributes_kept(CASE WHEN NOT p_full THEN days END) AS a
            WHERE a.attribute <> 'key'
            GROUP BY 1, 2, 3, 4, a.completion_window
        )
        -- Without the tag's name, which is the client's text.
        SELECT coalesce(w.user_id, k.user_id)::text, NULL::uuid,
               usage_part(coalesce(w.day, k.day), coalesce(w.model_id, k.model_id),
                          coalesce(w.completion_window, k.completion_window)),
               usage_text(coalesce(w.requests, 0), coalesce(w.prompt_tokens, 0), coalesce(w.completion_tokens, 0),
                          coalesce(w.cached_tokens, 0), coalesce(w.reasoning_tokens, 0), coalesce(w.cached_answers, 0)),
               usage_text(coalesce(k.requests, 0), coalesce(k.prompt_tokens, 0), coalesce(k.completion_tokens, 0),
                          coalesce(k.cached_tokens, 0), coalesce(k.reasoning_tokens, 0), coalesce(k.cached_answers, 0))
        FROM wanted w
        FULL JOIN kept k
            ON (k.user_id, k.day, k.attribute, k.model_id, k.completion_window)
               = (w.user_id, w.day, w.attribute, w.model_id, w.completion_window)
        WHERE (coalesce(w.requests, 0), coalesce(w.prompt_tokens, 0), coalesce(w.completion_tokens, 0),
               coalesce(w.cached_tokens, 0), coalesce(w.reasoning_tokens, 0), coalesce(w.cached_answers, 0))
              <> (coalesce(k.requests, 0), coalesce(k.prompt_tokens, 0), coalesce(k.completion_tokens, 0),
                  coalesce(k.cached_tokens, 0), coalesce(k.reasoning_tokens, 0), coalesce(k.cached_answers, 0))
        LIMIT 100;
END $$;

-- A statement is the one that was audited when its month was closed, and what it billed adds up to it. Unless p_full,
-- only those of the last two days are looked at.
CREATE OR REPLACE FUNCTION statement_is_kept(p_full boolean) RETURNS SETOF violation
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    -- The ids of statements and audit rows carry the real time, even if a test moves the clock.
    oldest uuid := CASE WHEN p_full THEN '00000000-0000-0000-0000-000000000000'
                        ELSE uuidv7_floor(clock_timestamp() - interval '2 days') END;
BEGIN
    RETURN QUERY
        SELECT coalesce(s.user_id, a.user_id)::text, NULL::uuid,
               coalesce(to_char(s.month, 'YYYY-MM'), a.after->>'month'),
               coalesce('digest ' || (a.after->>'digest'), 'an audit row'),
               coalesce('digest ' || encode(statement_digest(s.document), 'hex'), 'no statement')
        FROM (SELECT * FROM statements t WHERE t.statement_id >= oldest) AS s
        FULL JOIN (SELECT * FROM audit_log o
                   WHERE o.action = 'statement.closed' AND o.audit_id >= oldest
                     AND (o.after->>'statement_id')::uuid >= oldest) AS a
            ON (a.after->>'statement_id')::uuid = s.statement_id
        WHERE s.statement_id IS NULL OR a.audit_id IS NULL
           OR (encode(statement_digest(s.document), 'hex'), s.user_id, to_char(s.month, 'YYYY-MM'))
              IS DISTINCT FROM (a.after->>'digest', a.user_id, a.after->>'month')
        UNION ALL
        SELECT s.user_id::text, NULL::uuid, to_char(s.month, 'YYYY-MM'),
               format('tokens %s, cached %s, reasoning %s, answers from the cache %s', d.tokens, d.cached_tokens,
                      d.reasoning_tokens, d.cached_answers),
               format('tokens %s, cached %s, reasoning %s, answers from the cache %s', b.tokens, b.cached_tokens,
                      b.reasoning_tokens, b.cached_answers)
        FROM statements s
        CROSS JOIN LATERAL (
            -- A document of the version that knew two classes only has no lines of the others.
            SELECT coalesce(sum((l->>'tokens')::bigint) FILTER (WHERE l->>'token_class' <> 'cached_answer'),
                            0) AS tokens,
                   sum((l->>'tokens')::bigint) FILTER (WHERE l->>'token_class' = 'cached_prompt') AS cached_tokens,
                   sum((l->>'tokens')::bigint) FILTER (WHERE l->>'token_class' = 'reasoning') AS reasoning_tokens,
                   sum((l->>'tokens')::bigint) FILTER (WHERE l->>'token_class' = 'cached_answer') AS cached_answers
            FROM jsonb_array_elements(s.document->'lines') AS l
        ) AS d
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(u.prompt_tokens + u.completion_tokens), 0) AS tokens,
                   coalesce(sum(u.cached_tokens), 0) AS cached_tokens,
                   coalesce(sum(u.reasoning_tokens), 0) AS reasoning_tokens,
                   coalesce(sum(u.cached_answers), 0) AS cached_answers
            FROM billed_usage u WHERE u.statement_id = s.statement_id AND u.attribute = ''
        ) AS b
        WHERE s.statement_id >= oldest
          AND (d.tokens <> b.tokens OR d.cached_tokens <> b.cached_tokens OR d.reasoning_tokens <> b.reasoning_tokens
               OR d.cached_answers <> b.cached_answers)
        LIMIT 100;
END $$;
