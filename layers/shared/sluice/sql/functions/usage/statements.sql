-- Statements: a month that was billed is closed, and its invoice does not change any more. What becomes known of it
-- later (a failed request is redriven and completes, an answer comes late) is billed as an adjustment in a later month.
--
-- An adjustment is a difference: usage as it is now, less what the statements have billed of the same day, value,
-- model and completion window. So nothing is billed twice and nothing is forgotten, however often a request changes.
-- It is priced like the day that it belongs to, whose price and terms cannot change either.

CREATE OR REPLACE FUNCTION month_of(p_day date) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN date_trunc('month', p_day::timestamp)::date;

CREATE OR REPLACE FUNCTION month_end(p_month date) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (p_month + interval '1 month -1 day')::date;

CREATE OR REPLACE FUNCTION is_closed(p_user_id text, p_month date) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN EXISTS (SELECT FROM statements s WHERE s.user_id = p_user_id AND s.month = p_month);

CREATE OR REPLACE FUNCTION statement_digest(p_document jsonb) RETURNS bytea
    LANGUAGE sql STABLE
    RETURN sha256(convert_to(p_document::text, 'UTF8'));

CREATE OR REPLACE FUNCTION requests_unfinished_in(p_user_id text, p_month date) RETURNS bigint
    LANGUAGE sql STABLE
    RETURN (SELECT count(*) FROM inflight i
            WHERE i.user_id = p_user_id
              AND i.request_id >= uuidv7_floor(p_month::timestamp AT TIME ZONE 'UTC')
              AND i.request_id < uuidv7_floor((p_month + interval '1 month') AT TIME ZONE 'UTC'));

-- A month that is not closed, with the one currency of its usage.
CALL define_type('open_month', $$month date, currency text$$);

-- What no statement has billed yet of the values of all attributes. The rest has no rows: it is what these leave of the
-- whole.
CREATE OR REPLACE FUNCTION valued_usage_unbilled(p_user_id text) RETURNS SETOF attribute_usage
    LANGUAGE sql STABLE AS $$
    SELECT p_user_id, d.day, d.attribute, d.value, d.model_id, sum(d.requests_count)::bigint,
           sum(d.prompt_tokens)::bigint, sum(d.completion_tokens)::bigint, sum(d.cached_tokens)::bigint,
           sum(d.reasoning_tokens)::bigint, sum(d.cached_answers)::bigint, d.completion_window
    FROM (
        SELECT u.day, u.attribute::text, u.value::text, u.model_id::text, u.requests_count, u.prompt_tokens,
               u.completion_tokens, u.cached_tokens, u.reasoning_tokens, u.cached_answers, u.completion_window::text
        FROM usage_by_attribute u WHERE u.user_id = p_user_id
        UNION ALL
        SELECT e.day, e.attribute, e.value, e.model_id, e.requests_count, e.prompt_tokens, e.completion_tokens,
               e.cached_tokens, e.reasoning_tokens, e.cached_answers, e.completion_window
        FROM rollup_watermarks w
        CROSS JOIN LATERAL attribute_events(w.xact_id, 9223372036854775807, p_user_id) AS e
        WHERE w.task = 'attributes'
        UNION ALL
        SELECT b.day, b.attribute::text, b.value::text, b.model_id::text, -b.requests_count, -b.prompt_tokens,
               -b.completion_tokens, -b.cached_tokens, -b.reasoning_tokens, -b.cached_answers,
               b.completion_window::text
        FROM billed_usage b WHERE b.user_id = p_user_id AND b.attribute <> ''
    ) AS d
    WHERE d.value IS NOT NULL
    GROUP BY d.day, d.attribute, d.value, d.model_id, d.completion_window
    HAVING (sum(d.requests_count), sum(d.prompt_tokens), sum(d.completion_tokens), sum(d.cached_tokens),
            sum(d.reasoning_tokens), sum(d.cached_answers)) <> (0, 0, 0, 0, 0, 0);
$$;

-- What no statement has billed yet, of all months; with an attribute, by its values. A row without a value holds the
-- rest, as in attribute_usage_now().
CREATE OR REPLACE FUNCTION usage_unbilled(p_user_id text, p_attribute text) RETURNS SETOF attribute_usage
    LANGUAGE sql STABLE AS $$
    WITH whole AS (
        SELECT d.day, d.model_id, sum(d.requests_count) AS requests_count, sum(d.prompt_tokens) AS prompt_tokens,
               sum(d.completion_tokens) AS completion_tokens, sum(d.cached_tokens) AS cached_tokens,
               sum(d.reasoning_tokens) AS reasoning_tokens, sum(d.cached_answers) AS cached_answers,
               d.completion_window
        FROM (
            SELECT u.day, u.model_id, u.requests_count, u.prompt_tokens, u.completion_tokens, u.cached_tokens,
                   u.reasoning_tokens, u.cached_answers, u.completion_window
            FROM usage_now(p_user_id, '-infinity', 'infinity') AS u
            UNION ALL
            SELECT b.day, b.model_id::text, -b.requests_count, -b.prompt_tokens, -b.completion_tokens,
                   -b.cached_tokens, -b.reasoning_tokens, -b.cached_answers, b.completion_window::text
            FROM billed_usage b WHERE b.user_id = p_user_id AND b.attribute = ''
        ) AS d
        GROUP BY d.day, d.model_id, d.completion_window
    ), parts AS (
        SELECT d.day, d.value, d.model_id, sum(d.requests_count) AS requests_count,
               sum(d.prompt_tokens) AS prompt_tokens, sum(d.completion_tokens) AS completion_tokens,
               sum(d.cached_tokens) AS cached_tokens, sum(d.reasoning_tokens) AS reasoning_tokens,
               sum(d.cached_answers) AS cached_answers, d.completion_window
        FROM valued_usage_unbilled(p_user_id) AS d WHERE d.attribute = p_attribute
        GROUP BY d.day, d.value, d.model_id, d.completion_window
    )
    SELECT p_user_id, f.day, p_attribute, f.value, f.model_id, f.requests_count::bigint, f.prompt_tokens::bigint,
           f.completion_tokens::bigint, f.cached_tokens::bigint, f.reasoning_tokens::bigint, f.cached_answers::bigint,
           f.completion_window
    FROM (
        SELECT * FROM parts
        UNION ALL
        SELECT w.day, NULL, w.model_id, w.requests_count - coalesce(p.requests_count, 0),
               w.prompt_tokens - coalesce(p.prompt_tokens, 0), w.completion_tokens - coalesce(p.completion_tokens, 0),
               w.cached_tokens - coalesce(p.cached_tokens, 0), w.reasoning_tokens - coalesce(p.reasoning_tokens, 0),
               w.cached_answers - coalesce(p.cached_answers, 0), w.completion_window
        FROM whole w
        LEFT JOIN (
            SELECT x.day, x.model_id, sum(x.requests_count) AS requests_count, sum(x.prompt_tokens) AS prompt_tokens,
                   sum(x.completion_tokens) AS completion_tokens, sum(x.cached_tokens) AS cached_tokens,
                   sum(x.reasoning_tokens) AS reasoning_tokens, sum(x.cached_answers) AS cached_answers,
                   x.completion_window
            FROM parts x GROUP BY x.day, x.model_id, x.completion_window
        ) AS p ON (p.day, p.model_id, p.completion_window) = (w.day, w.model_id, w.completion_window)
    ) AS f
    WHERE (f.requests_count, f.prompt_tokens, f.completion_tokens, f.cached_tokens, f.reasoning_tokens,
           f.cached_answers)
          <> (0, 0, 0, 0, 0, 0);
$$;

-- The month whose statement bills the adjustments of a closed month that are in this currency: the next open one with
-- usage of its own, in this currency alone; otherwise the one in which the change was noticed, or the present one.
CREATE OR REPLACE FUNCTION adjusting_month(
    p_user_id text, p_closed_month date, p_currency text, p_open_months open_month[]
)
    RETURNS date
    LANGUAGE sql STABLE
    RETURN coalesce(
        (SELECT min(o.month) FROM unnest(p_open_months) AS o
         WHERE o.month > p_closed_month AND o.currency IS NOT DISTINCT FROM p_currency),
        (SELECT min(a.month) FROM adjustments_due a
         WHERE a.user_id = p_user_id AND a.month > p_closed_month AND NOT is_closed(p_user_id, a.month)),
        month_of(utc_today()));

-- What the statement of an open month bills, as a whole. Adjustments in another currency than the month's wait for a
-- month in their own.
CREATE OR REPLACE FUNCTION statement_usage(p_user_id text, p_month date) RETURNS SETOF attribute_usage
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    currency constant text := list_currency(billing_list(p_user_id, month_end(p_month)));
    unbilled attribute_usage[];
    closed   date[] := ARRAY(SELECT s.month FROM statements s WHERE s.user_id = p_user_id);
    months   open_month[];
BEGIN
    IF p_month = ANY (closed) THEN
        RETURN;
    END IF;
    unbilled := ARRAY(SELECT u FROM usage_unbilled(p_user_id, '') AS u);
    months := ARRAY(
        SELECT (month_of(u.day), min(list_currency(billing_list(p_user_id, u.day))))::open_month
        FROM unnest(unbilled) AS u WHERE month_of(u.day) <> ALL (closed)
        GROUP BY month_of(u.day)
        HAVING count(DISTINCT list_currency(billing_list(p_user_id, u.day))) = 1);
    RETURN QUERY
        SELECT u.* FROM unnest(unbilled) AS u
        WHERE month_of(u.day) = p_month
           OR month_of(u.day) < p_month AND month_of(u.day) = ANY (closed)
              AND list_currency(billing_list(p_user_id, u.day)) IS NOT DISTINCT FROM currency
              AND adjusting_month(p_user_id, month_of(u.day), currency, months) = p_month;
END $$;

-- The same by the values of an attribute, for the days that the statement bills.
CREATE OR REPLACE FUNCTION statement_usage_by(p_user_id text, p_month date, p_attribute text)
    RETURNS SETOF attribute_usage
    LANGUAGE sql STABLE AS $$
    SELECT u.* FROM usage_unbilled(p_user_id, p_attribute) AS u
    WHERE u.day IN (SELECT w.day FROM statement_usage(p_user_id, p_month) AS w);
$$;

-- What a closed month's statement has billed, as a whole or by the values of an attribute.
CREATE OR REPLACE FUNCTION statement_billed(p_user_id text, p_month date, p_attribute text)
    RETURNS SETOF attribute_usage
    LANGUAGE sql STABLE AS $$
    WITH billed AS (
        SELECT b.* FROM statements s JOIN billed_usage b ON b.statement_id = s.statement_id
        WHERE s.user_id = p_user_id AND s.month = p_month AND b.attribute IN ('', p_attribute)
    ), parts AS (
        SELECT b.day, b.model_id, sum(b.requests_count) AS requests_count, sum(b.prompt_tokens) AS prompt_tokens,
               sum(b.completion_tokens) AS completion_tokens, sum(b.cached_tokens) AS cached_tokens,
               sum(b.reasoning_tokens) AS reasoning_tokens, sum(b.cached_answers) AS cached_answers,
               b.completion_window
        FROM billed b WHERE b.attribute <> '' GROUP BY b.day, b.model_id, b.completion_window
    )
    SELECT p_user_id, b.day, p_attribute, b.value::text, b.model_id::text, b.requests_count, b.prompt_tokens,
           b.completion_tokens, b.cached_tokens, b.reasoning_tokens, b.cached_answers, b.completion_window::text
    FROM billed b WHERE b.attribute <> ''
    UNION ALL
    SELECT p_user_id, b.day, p_attribute, NULL, b.model_id::text,
           (b.requests_count - coalesce(p.requests_count, 0))::bigint,
           (b.prompt_tokens - coalesce(p.prompt_tokens, 0))::bigint,
           (b.completion_tokens - coalesce(p.completion_tokens, 0))::bigint,
           (b.cached_tokens - coalesce(p.cached_tokens, 0))::bigint,
           (b.reasoning_tokens - coalesce(p.reasoning_tokens, 0))::bigint,
           (b.cached_answers - coalesce(p.cached_answers, 0))::bigint, b.completion_window::text
    FROM billed b
    LEFT JOIN parts p ON (p.day, p.model_id, p.completion_window) = (b.day, b.model_id, b.completion_window)
    WHERE b.attribute = ''
      AND (b.requests_count, b.prompt_tokens, b.completion_tokens, b.cached_tokens, b.reasoning_tokens,
           b.cached_answers)
          <> (coalesce(p.requests_count, 0), coalesce(p.prompt_tokens, 0), coalesce(p.completion_tokens, 0),
              coalesce(p.cached_tokens, 0), coalesce(p.reasoning_tokens, 0), coalesce(p.cached_answers, 0));
$$;

-- Rows with prices, as the service and statement_close() exchange them, in a fixed order, and the completion window of
-- each.
CREATE OR REPLACE FUNCTION statement_rows(
    p_user_id text, p_month date, p_attribute text, OUT usage jsonb, OUT windows jsonb
)
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(o.priced ORDER BY o.n), '[]'),
           windows_json(array_agg(o.completion_window ORDER BY o.n))
    FROM (
        SELECT priced_usage_json((n.day, n.model_id, n.requests_count, c.token_class, c.tokens, t.list,
                                  list_currency(t.list), c.price_per_million, n.value,
                                  n.completion_window)::priced_usage)
                   || jsonb_build_object('value', n.value) AS priced,
               n.completion_window,
               row_number() OVER (ORDER BY n.day, n.value NULLS LAST, n.model_id, n.completion_window,
                                           array_position(token_classes(), c.token_class)) AS n
        FROM (
            SELECT * FROM statement_usage(p_user_id, p_month) AS u WHERE p_attribute = ''
            UNION ALL
            SELECT * FROM statement_usage_by(p_user_id, p_month, p_attribute) AS u WHERE p_attribute <> ''
            UNION ALL
            SELECT * FROM statement_billed(p_user_id, p_month, p_attribute) AS b
        ) AS n
        -- OFFSET 0: the list is looked up once, not for each place where it is used.
        CROSS JOIN LATERAL (
            SELECT window_list(billing_list(p_user_id, n.day), n.completion_window, n.day) AS list OFFSET 0) AS t
        CROSS JOIN LATERAL class_usage_on(t.list, n.model_id, n.day, n.prompt_tokens, n.completion_tokens,
                                          n.cached_tokens, n.reasoning_tokens, n.cached_answers) AS c
    ) AS o;
$$;

CALL define_type('statement_view', $$
    is_user boolean, document jsonb, usage jsonb, price_list text, currency text, is_over boolean, unfinished bigint,
    windows jsonb
$$);

CREATE OR REPLACE FUNCTION statement_show_v2(p_user_id text, p_month date, p_attribute text) RETURNS statement_view
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT EXISTS (SELECT FROM users u WHERE u.user_id = p_user_id),
           (SELECT s.document || jsonb_build_object(
                       'statement_id', s.statement_id, 'closed_at', s.closed_at, 'digest', encode(s.digest, 'hex'))
            FROM statements s WHERE s.user_id = p_user_id AND s.month = p_month),
           b.usage, t.list, list_currency(t.list), utc_today() > month_end(p_month),
           requests_unfinished_in(p_user_id, p_month), b.windows
    FROM (SELECT billing_list(p_user_id, month_end(p_month)) AS list) AS t
    CROSS JOIN statement_rows(p_user_id, p_month, p_attribute) AS b;
$$;
COMMENT ON FUNCTION statement_show_v2(text, date, text) IS
    'The statement of a user''s month. document: as it was given out, NULL while the month is open. usage: what it '
    'bills (see usage_report), days before the month being adjustments; p_attribute: "" or an attribute. is_over: the '
    'month has ended. unfinished: requests accepted in it whose tokens are not known yet. windows: as in '
    'usage_report_v3().';

-- For the version of the code that knows two classes of tokens.
CREATE OR REPLACE FUNCTION statement_show(p_user_id text, p_month date, p_attribute text) RETURNS statement_view
    LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    result statement_view := statement_show_v2(p_user_id, p_month, p_attribute);
BEGIN
    result.usage := usage_of_two_classes(result.usage);
    result.windows := NULL;
    RETURN result;
END $$;

-- Notes whether adjustments of a user are still to be billed: those in another currency are looked at again in the next
-- month.
CREATE OR REPLACE FUNCTION adjustments_billed(p_user_id text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM adjustments_due a WHERE a.user_id = p_user_id) THEN
        RETURN;
    END IF;
    DELETE FROM adjustments_due a WHERE a.user_id = p_user_id;
    IF EXISTS (SELECT FROM usage_unbilled(p_user_id, '') AS u WHERE is_closed(p_user_id, month_of(u.day))) THEN
        INSERT INTO adjustments_due (user_id, month) VALUES (p_user_id, month_of(utc_today()));
    END IF;
END $$;

-- Closes a month: keeps its document and what it bills, in one commit with the audit row. NULL, with nothing written,
-- if the month is not over, has unfinished requests, or the usage is no longer what the document was made from. If it
-- is closed already, returns the statement that there is.
CREATE OR REPLACE FUNCTION statement_close(
    p_user_id text, p_month date, p_document jsonb, p_usage jsonb, p_actor text, p_invocation uuid
)
    RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    id    uuid := uuidv7();
    shown jsonb;
    due   attribute_usage[];
    parts attribute_usage[];
BEGIN
    PERFORM invocation_begin(p_invocation);
    PERFORM prices_hold();
    PERFORM user_lock(p_user_id);
    IF NOT is_closed(p_user_id, p_month) THEN
        shown := (statement_rows(p_user_id, p_month, '')).usage;
        IF utc_today() <= month_end(p_month) OR requests_unfinished_in(p_user_id, p_month) > 0
           OR p_usage NOT IN (shown, usage_of_two_classes(shown)) THEN
            RETURN NULL;
        END IF;
        due := ARRAY(SELECT u FROM statement_usage(p_user_id, p_month) AS u);
        parts := ARRAY(SELECT u FROM valued_usage_unbilled(p_user_id) AS u
                       WHERE u.day IN (SELECT d.day FROM unnest(due) AS d));
        INSERT INTO statements (statement_id, user_id, month, document, digest, closed_at)
        VALUES (id, p_user_id, p_month, p_document, statement_digest(p_document), clock_now());
        INSERT INTO billed_usage (statement_id, user_id, day, attribute, value, model_id, price_list, requests_count,
                                  prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cached_answers,
                                  completion_window)
        SELECT id, p_user_id, u.day, u.attribute, u.value, u.model_id,
               window_list(billing_list(p_user_id, u.day), u.completion_window, u.day),
               u.requests_count, u.prompt_tokens, u.completion_tokens, u.cached_tokens, u.reasoning_tokens,
               u.cached_answers, u.completion_window
        FROM unnest(due || parts) AS u;
        PERFORM adjustments_billed(p_user_id);
        PERFORM audit_write(p_actor, ARRAY[ROW(
            'statement.closed', p_user_id, NULL, NULL, NULL,
            jsonb_build_object('statement_id', id, 'month', to_char(p_month, 'YYYY-MM'),
                               'total', p_document->'total', 'currency', p_document->'currency',
                               'digest', encode(statement_digest(p_document), 'hex')))::audit_entry]);
    END IF;
    RETURN (SELECT s.document FROM statement_show_v2(p_user_id, p_month, '') AS s);
END $$;
COMMENT ON FUNCTION statement_close(text, date, jsonb, jsonb, text, uuid) IS
    'p_usage: the member usage of statement_show_v2(), or of statement_show(), from which p_document was made.';

CALL define_type('due_statement', $$user_id text, month date$$);

-- What the task does with a month that had nothing to bill after all, or nothing in its currency.
CREATE OR REPLACE FUNCTION statement_skip(p_user_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM user_lock(p_user_id);
    PERFORM adjustments_billed(p_user_id);
END $$;

-- Months that are over and have something to bill: usage, or adjustments.
CREATE OR REPLACE FUNCTION statements_due(p_limit integer) RETURNS SETOF due_statement
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT d.user_id, d.month FROM (
        SELECT u.user_id::text, u.period_start AS month FROM usage u
        WHERE u.period = 'monthly' AND u.period_start < month_of(utc_today())
        UNION
        SELECT a.user_id::text, a.month FROM adjustments_due a WHERE a.month < month_of(utc_today())
    ) AS d
    WHERE NOT is_closed(d.user_id, d.month) AND requests_unfinished_in(d.user_id, d.month) = 0
    ORDER BY d.month, d.user_id LIMIT p_limit;
$$;
COMMENT ON FUNCTION statements_due(integer) IS
    'The months of users that can be closed, oldest first; usage is that of the last rollup.';
