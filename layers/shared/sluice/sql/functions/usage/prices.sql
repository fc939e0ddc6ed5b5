-- What tokens cost: the user's terms of the day name a price list, and the list has a price for the day.

-- The price list by which a user's tokens of a day are billed. The user's first terms are for all days before them,
-- too: if the clock was set back, a request may be older than its user.
CREATE OR REPLACE FUNCTION billing_terms_on(p_user_id text, p_day date) RETURNS SETOF billing_terms
    LANGUAGE sql STABLE AS $$
    SELECT * FROM billing_terms b
    WHERE b.user_id = p_user_id
    ORDER BY CASE WHEN b.valid_from <= p_day THEN b.valid_from END DESC NULLS LAST, b.valid_from LIMIT 1;
$$;
COMMENT ON FUNCTION billing_terms_on(text, date) IS
    'One row; for use in FROM, where PostgreSQL puts it into the query.';

CREATE OR REPLACE FUNCTION billing_list(p_user_id text, p_day date) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT b.price_list FROM billing_terms_on(p_user_id, p_day) AS b;
$$;

-- By which list requests with this completion window are billed, of a user who is billed by this list on that day.
CREATE OR REPLACE FUNCTION window_list(p_price_list text, p_window text, p_day date) RETURNS text
    LANGUAGE sql STABLE
    RETURN coalesce(
        (SELECT w.window_list FROM window_lists w
         WHERE w.price_list = p_price_list AND w.completion_window = p_window AND w.valid_from <= p_day
         ORDER BY w.valid_from DESC LIMIT 1), p_price_list);
COMMENT ON FUNCTION window_list(text, text, date) IS
    'p_window: NULL or soonest: the list itself. It has the same currency.';

CREATE OR REPLACE FUNCTION prices_on(p_price_list text, p_model_id text, p_token_class text, p_day date)
    RETURNS SETOF prices
    LANGUAGE sql STABLE AS $$
    SELECT * FROM prices p
    WHERE p.price_list = p_price_list AND p.model_id = p_model_id AND p.token_class = p_token_class
      AND p.valid_from <= p_day
    ORDER BY p.valid_from DESC LIMIT 1;
$$;
COMMENT ON FUNCTION prices_on(text, text, text, date) IS
    'One row, or none if there was no price; for use in FROM, where PostgreSQL puts it into the query.';

-- Token classes, in the order of invoices. Prompt tokens are those that were not cached, completion tokens those that
-- were no reasoning: each token is of one class. What is counted in the last class is no tokens but requests that were
-- answered without a call of a model (see request_charges); without a price they cost nothing.
CREATE OR REPLACE FUNCTION token_classes() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY['prompt', 'cached_prompt', 'completion', 'reasoning', 'cached_answer'];

-- The class whose price holds for a class without a price of its own.
CREATE OR REPLACE FUNCTION fallback_class(p_token_class text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE p_token_class WHEN 'cached_prompt' THEN 'prompt' WHEN 'reasoning' THEN 'completion' END;

CALL define_type('class_prices', $$
    prompt numeric, cached_prompt numeric, completion numeric, reasoning numeric, cached_answer numeric
$$);

-- The prices of a day, per million tokens, in the list's currency; NULL where there was none. This is the only place
-- that knows which price holds for a class without one of its own (as fallback_class says).
-- Prices of cached tokens, of reasoning and of cached answers are looked up only where there are any: mostly there are
-- none.
CREATE OR REPLACE FUNCTION class_prices_on(
    p_price_list text, p_model_id text, p_day date, p_cached_tokens bigint, p_reasoning_tokens bigint,
    p_cached_answers bigint
)
    RETURNS SETOF class_prices
    LANGUAGE sql STABLE AS $$
    SELECT p.price_per_million, coalesce(h.price_per_million, p.price_per_million),
           c.price_per_million, coalesce(r.price_per_million, c.price_per_million),
           coalesce(a.price_per_million, 0)
    FROM (SELECT) AS one
    LEFT JOIN LATERAL prices_on(p_price_list, p_model_id, 'prompt', p_day) AS p ON true
    LEFT JOIN LATERAL prices_on(
        p_price_list, p_model_id, CASE WHEN p_cached_tokens <> 0 THEN 'cached_prompt' END, p_day) AS h ON true
    LEFT JOIN LATERAL prices_on(p_price_list, p_model_id, 'completion', p_day) AS c ON true
    LEFT JOIN LATERAL prices_on(
        p_price_list, p_model_id, CASE WHEN p_reasoning_tokens <> 0 THEN 'reasoning' END, p_day) AS r ON true
    LEFT JOIN LATERAL prices_on(
        p_price_list, p_model_id, CASE WHEN p_cached_answers <> 0 THEN 'cached_answer' END, p_day) AS a ON true;
$$;
COMMENT ON FUNCTION class_prices_on(text, text, date, bigint, bigint, bigint) IS
    'One row; for use in FROM, where PostgreSQL puts it into the query.';

CALL define_type('class_usage', $$token_class text, tokens bigint, price_per_million numeric$$);

-- Tokens of a day by class, with the price of each: rows for prompt and completion, and for the others where there are
-- any.
CREATE OR REPLACE FUNCTION class_usage_on(
    p_price_list text, p_model_id text, p_day date, p_prompt_tokens bigint, p_completion_tokens bigint,
    p_cached_tokens bigint, p_reasoning_tokens bigint, p_cached_answers bigint
)
    RETURNS SETOF class_usage
    LANGUAGE sql STABLE AS $$
    SELECT c.token_class, c.tokens, c.price
    FROM class_prices_on(p_price_list, p_model_id, p_day, p_cached_tokens, p_reasoning_tokens, p_cached_answers) AS p
    CROSS JOIN LATERAL (VALUES
        ('prompt', p_prompt_tokens - p_cached_tokens, p.prompt),
        ('cached_prompt', p_cached_tokens, p.cached_prompt),
        ('completion', p_completion_tokens - p_reasoning_tokens, p.completion),
        ('reasoning', p_reasoning_tokens, p.reasoning),
        ('cached_answer', p_cached_answers, p.cached_answer)
    ) AS c (token_class, tokens, price)
    WHERE c.tokens <> 0 OR c.token_class IN ('prompt', 'completion');
$$;
COMMENT ON FUNCTION class_usage_on(text, text, date, bigint, bigint, bigint, bigint, bigint) IS
    'For use in FROM, where PostgreSQL puts it into the query.';

-- Exact: a product of decimals is never rounded, a quotient may be.
CREATE OR REPLACE FUNCTION tokens_amount(
    p_prompt_tokens bigint, p_completion_tokens bigint, p_cached_tokens bigint, p_reasoning_tokens bigint,
    p_cached_answers bigint, p_prices class_prices
)
    RETURNS numeric
    LANGUAGE sql IMMUTABLE
    RETURN (CASE WHEN p_prompt_tokens > coalesce(p_cached_tokens, 0)
                 THEN (p_prompt_tokens - coalesce(p_cached_tokens, 0)) * p_prices.prompt ELSE 0 END
            + CASE WHEN p_cached_tokens > 0 THEN p_cached_tokens * p_prices.cached_prompt ELSE 0 END
            + CASE WHEN p_completion_tokens > coalesce(p_reasoning_tokens, 0)
                   THEN (p_completion_tokens - coalesce(p_reasoning_tokens, 0)) * p_prices.completion ELSE 0 END
            + CASE WHEN p_reasoning_tokens > 0 THEN p_reasoning_tokens * p_prices.reasoning ELSE 0 END
            + CASE WHEN p_cached_answers > 0 THEN p_cached_answers * p_prices.cached_answer ELSE 0 END
           ) * 0.000001;
COMMENT ON FUNCTION tokens_amount(bigint, bigint, bigint, bigint, bigint, class_prices) IS
    'What tokens cost at prices per million; NULL if there is no price for some of them.';

CREATE OR REPLACE FUNCTION tokens_cost(
    p_price_list text, p_model_id text, p_day date, p_prompt_tokens bigint, p_completion_tokens bigint,
    p_cached_tokens bigint, p_reasoning_tokens bigint, p_cached_answers bigint
)
    RETURNS numeric
    LANGUAGE sql STABLE AS $$
    SELECT tokens_amount(p_prompt_tokens, p_completion_tokens, p_cached_tokens, p_reasoning_tokens, p_cached_answers, p)
    FROM class_prices_on(p_price_list, p_model_id, p_day, p_cached_tokens, p_reasoning_tokens, p_cached_answers) AS p;
$$;
COMMENT ON FUNCTION tokens_cost(text, text, date, bigint, bigint, bigint, bigint, bigint) IS
    'What tokens of a day cost, in the list''s currency; NULL if there was no price for some of them.';

-- A model may cache all of a prompt or none of it, and reason as long as it may write.
CREATE OR REPLACE FUNCTION tokens_cost_most(
    p_price_list text, p_model_id text, p_day date, p_prompt_tokens bigint, p_completion_tokens bigint
)
    RETURNS numeric
    LANGUAGE sql STABLE AS $$
    -- A class without a price stays without one, even if a part of it has a price of its own.
    SELECT tokens_amount(p_prompt_tokens, p_completion_tokens, 0, 0, 0, (
        CASE WHEN p.prompt IS NOT NULL THEN greatest(p.prompt, p.cached_prompt) END, NULL,
        CASE WHEN p.completion IS NOT NULL THEN greatest(p.completion, p.reasoning) END, NULL, NULL)::class_prices)
    FROM class_prices_on(p_price_list, p_model_id, p_day, p_prompt_tokens, p_completion_tokens, 0) AS p;
$$;
COMMENT ON FUNCTION tokens_cost_most(text, text, date, bigint, bigint) IS
    'The most that so many tokens of a day can cost, whatever their classes; NULL if a class has no price.';

CREATE OR REPLACE FUNCTION list_currency(p_price_list text) RETURNS text
    LANGUAGE sql STABLE
    RETURN (SELECT l.currency::text FROM price_lists l WHERE l.price_list = p_price_list);
