-- Administrative operations on prices.

-- Prices, each with the day on which it ends: the day on which the next price of its list, model and class begins.
CREATE OR REPLACE VIEW price_registry AS
    SELECT p.price_list, l.currency, p.model_id, p.token_class, trim_scale(p.price_per_million) AS price_per_million,
           p.valid_from,
           lead(p.valid_from) OVER (PARTITION BY p.price_list, p.model_id, p.token_class ORDER BY p.valid_from)
               AS valid_until
    FROM prices p JOIN price_lists l ON l.price_list = p.price_list;

CALL define_type('price_view', $$
    price_list text, currency text, model_id text, token_class text, price_per_million numeric, valid_from date,
    valid_until date
$$);

CREATE OR REPLACE FUNCTION price_list(p_price_list text, p_model_id text, p_on date) RETURNS SETOF price_view
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT r.price_list::text, r.currency::text, r.model_id::text, r.token_class::text, r.price_per_million,
           r.valid_from, r.valid_until
    FROM price_registry r
    WHERE (p_price_list IS NULL OR r.price_list = p_price_list)
      AND (p_model_id IS NULL OR r.model_id = p_model_id)
      AND (p_on IS NULL OR r.valid_from <= p_on AND coalesce(r.valid_until, 'infinity') > p_on)
    ORDER BY r.price_list, r.model_id, array_position(token_classes(), r.token_class::text), r.valid_from;
$$;
COMMENT ON FUNCTION price_list(text, text, date) IS 'All prices, or only those of a list, of a model, or on a day.';

CREATE OR REPLACE FUNCTION price_list_exists(p_price_list text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT EXISTS (SELECT FROM price_lists l WHERE l.price_list = p_price_list);
$$;

CREATE OR REPLACE FUNCTION price_put(
    p_price_list text, p_model_id text, p_token_class text, p_valid_from date, p_price numeric
)
    RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    old prices;
BEGIN
    SELECT * INTO old FROM prices p
    WHERE p.price_list = p_price_list AND p.model_id = p_model_id AND p.token_class = p_token_class
      AND p.valid_from <= p_valid_from
    ORDER BY p.valid_from DESC LIMIT 1;
    IF old.price_per_million = p_price THEN
        RETURN;
    END IF;
    -- Without a price, answers from the cache were free.
    IF p_valid_from < utc_today() AND (old.valid_from IS NOT NULL OR p_token_class = 'cached_answer'
           OR has_fallback_price(p_price_list, p_model_id, p_token_class, p_valid_from)) THEN
        -- Days that are over may have been billed already. They can still be priced again by another list.
        PERFORM admin_refuse('price_in_past');
    END IF;
    IF old.valid_from IS NULL AND is_billed_unpriced(p_price_list, p_model_id, p_token_class, p_valid_from) THEN
        PERFORM admin_refuse('month_closed');
    END IF;
    INSERT INTO prices (price_list, model_id, token_class, valid_from, price_per_million)
    VALUES (p_price_list, p_model_id, p_token_class, p_valid_from, p_price)
    ON CONFLICT (price_list, model_id, token_class, valid_from)
    DO UPDATE SET price_per_million = EXCLUDED.price_per_million;
    PERFORM admin_audit('price.set', NULL, NULL,
        CASE WHEN old.valid_from IS NOT NULL THEN
            jsonb_build_object('price_per_million', trim_scale(old.price_per_million)::text,
                               'valid_from', old.valid_from) END,
        jsonb_build_object('price_list', p_price_list, 'model_id', p_model_id, 'token_class', p_token_class,
                           'price_per_million', trim_scale(p_price)::text, 'valid_from', p_valid_from));
END $$;

-- Whether a first price from this day on would replace the price of another class on days that are over.
CREATE OR REPLACE FUNCTION has_fallback_price(
    p_price_list text, p_model_id text, p_token_class text, p_valid_from date
)
    RETURNS boolean
    LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM prices f
        WHERE f.price_list = p_price_list AND f.model_id = p_model_id
          AND f.token_class = fallback_class(p_token_class)
          AND f.valid_from < least(utc_today(), (
              SELECT min(n.valid_from) FROM prices n
              WHERE n.price_list = p_price_list AND n.model_id = p_model_id AND n.token_class = p_token_class
                AND n.valid_from > p_valid_from)));
$$;

-- Whether a price from this day on would give a price to tokens that a statement has billed without one.
CREATE OR REPLACE FUNCTION is_billed_unpriced(
    p_price_list text, p_model_id text, p_token_class text, p_valid_from date
)
    RETURNS boolean
    LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM billed_usage u
        CROSS JOIN LATERAL class_usage_on(p_price_list, p_model_id, u.day, u.prompt_tokens, u.completion_tokens,
                                          u.cached_tokens, u.reasoning_tokens, u.cached_answers) AS c
        WHERE u.attribute = '' AND u.price_list = p_price_list AND u.model_id = p_model_id AND u.day >= p_valid_from
          AND p_token_class IN (c.token_class, fallback_class(c.token_class))
          AND c.tokens <> 0 AND c.price_per_million IS NULL);
$$;

-- Who changes prices takes this lock exclusively, before any user lock. Who counts, closes or begins something by
-- prices takes it shared, after tiers_hold() and before any user lock: so it sees the prices before or after a change,
-- and the change sees it.
CREATE OR REPLACE FUNCTION prices_hold() RETURNS void
    LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock_shared(hashtext('sluice.models'));
$$;

-- Users with budgets that count requests to the model (NULL: to any), and who are billed by the list, be it for
-- requests with a completion window.
CREATE OR REPLACE FUNCTION users_repriced(p_price_list text, p_model_id text) RETURNS text[]
    LANGUAGE sql STABLE
    RETURN ARRAY(SELECT DISTINCT b.user_id FROM budgets b
                 JOIN billing_terms t ON t.user_id = b.user_id
                 WHERE (p_model_id IS NULL OR coalesce(b.model_id, p_model_id) = p_model_id)
                   AND (t.price_list = p_price_list
                        OR EXISTS (SELECT FROM window_lists w
                                   WHERE w.price_list = t.price_list AND w.window_list = p_price_list)));

-- After prices were changed: the budgets of everybody who is billed by the list count the new amounts. Even a price of
-- a later day may concern them, if the clock was set back.
CREATE OR REPLACE FUNCTION budgets_reprice(p_price_list text, p_model_id text) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    users text[] := users_repriced(p_price_list, p_model_id);
BEGIN
    PERFORM users_lock(users);
    PERFORM budgets_recount(users, p_model_id);
END $$;

CREATE OR REPLACE FUNCTION admin_price_set(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    list text := a->>'price_list';
    day  date := coalesce((a->>'valid_from')::date, utc_today());
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    IF NOT EXISTS (SELECT FROM models m WHERE m.model_id = a->>'model_id') THEN
        PERFORM admin_refuse('model_unknown');
    END IF;
    INSERT INTO price_lists (price_list, currency, created_at)
    VALUES (list, coalesce(a->>'currency', 'USD'), clock_now())
    ON CONFLICT (price_list) DO NOTHING;
    IF (SELECT l.currency <> a->>'currency' FROM price_lists l WHERE l.price_list = list) THEN
        PERFORM admin_refuse('currency_differs');
    END IF;
    -- Parts first: once the whole has a price on days that are over, that is theirs too, and stays.
    PERFORM price_put(list, a->>'model_id', c.class, day, (a->>c.class)::numeric)
    FROM unnest(token_classes()) AS c (class) WHERE a->>c.class IS NOT NULL
    ORDER BY fallback_class(c.class) IS NULL;
    PERFORM budgets_reprice(list, a->>'model_id');
    RETURN (SELECT jsonb_agg(to_jsonb(r) || jsonb_build_object('price_per_million', r.price_per_million::text)
                             ORDER BY array_position(token_classes(), r.token_class::text), r.valid_from)
            FROM price_registry r WHERE r.price_list = list AND r.model_id = a->>'model_id');
END $$;

-- Completion windows --------------------------------------------------------------------------------------------------

CALL define_type('window_price', $$
    price_list text, "window" text, window_list text, currency text, valid_from date, valid_until date
$$);

CREATE OR REPLACE FUNCTION price_windows(p_price_list text) RETURNS SETOF window_price
    LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT r.price_list::text, r.completion_window::text, r.window_list::text, l.currency::text, r.valid_from,
           lead(r.valid_from) OVER (PARTITION BY r.price_list, r.completion_window ORDER BY r.valid_from)
    FROM window_lists r
    JOIN price_lists l ON l.price_list = r.price_list
    JOIN completion_windows() AS w ON w.name = r.completion_window
    WHERE p_price_list IS NULL OR r.price_list = p_price_list
    ORDER BY r.price_list, w.length, r.valid_from;
$$;
COMMENT ON FUNCTION price_windows(text) IS
    'By which lists requests with completion windows are billed: of users of all lists, or of one. valid_until is not '
    'included.';

-- As with a price, days that are over may have been billed already.
CREATE OR REPLACE FUNCTION admin_price_window(a jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    list    text := a->>'price_list';
    promise text := (completion_window(a->>'window')).name;
    other   text := a->>'window_list';
    day     date := coalesce((a->>'valid_from')::date, utc_today());
    before  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sluice.models'));
    IF list_currency(list) IS NULL OR list_currency(other) IS NULL THEN
        PERFORM admin_refuse('price_list_unknown');
    ELSIF list_currency(list) <> list_currency(other) THEN
        PERFORM admin_refuse('window_currency_differs');
    ELSIF day < utc_today() THEN
        PERFORM admin_refuse('window_in_past');
    END IF;
    before := window_list(list, promise, day);
    IF before <> other THEN
        INSERT INTO window_lists (price_list, completion_window, valid_from, window_list)
        VALUES (list, promise, day, other)
        ON CONFLICT (price_list, completion_window, valid_from) DO UPDATE SET window_list = EXCLUDED.window_list;
        PERFORM admin_audit('price.window_set', NULL, NULL, jsonb_build_object('window_list', before),
            jsonb_build_object('price_list', list, 'window', promise, 'window_list', other, 'valid_from', day));
        PERFORM budgets_reprice(list, NULL);
    END IF;
    RETURN (SELECT coalesce(jsonb_agg(to_jsonb(r)), '[]') FROM price_windows(list) AS r WHERE r."window" = promise);
END $$;
