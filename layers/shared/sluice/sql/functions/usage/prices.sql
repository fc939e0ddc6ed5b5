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

CREATE OR REPLACE FUNCTION price_on(p_price_list text, p_model_id text, p_token_class text, p_day date) RETURNS numeric
    LANGUAGE sql STABLE AS $$
    SELECT p.price_per_million FROM prices_on(p_price_list, p_model_id, p_token_class, p_day) AS p;
$$;
COMMENT ON FUNCTION price_on(text, text, text, date) IS
    'The price per million tokens, in the list''s currency; NULL if there was no price.';

-- Exact: a product of decimals is never rounded, a quotient may be.
CREATE OR REPLACE FUNCTION tokens_amount(
    p_prompt_tokens bigint, p_prompt_price numeric, p_completion_tokens bigint, p_completion_price numeric
)
    RETURNS numeric
    LANGUAGE sql IMMUTABLE
    RETURN (CASE WHEN p_prompt_tokens > 0 THEN p_prompt_tokens * p_prompt_price ELSE 0 END
            + CASE WHEN p_completion_tokens > 0 THEN p_completion_tokens * p_completion_price ELSE 0 END
           ) * 0.000001;
COMMENT ON FUNCTION tokens_amount(bigint, numeric, bigint, numeric) IS
    'What tokens cost at prices per million; NULL if there is no price for some of them.';

CREATE OR REPLACE FUNCTION tokens_cost(
    p_price_list text, p_model_id text, p_day date, p_prompt_tokens bigint, p_completion_tokens bigint
)
    RETURNS numeric
    LANGUAGE sql STABLE
    RETURN tokens_amount(p_prompt_tokens, price_on(p_price_list, p_model_id, 'prompt', p_day),
                         p_completion_tokens, price_on(p_price_list, p_model_id, 'completion', p_day));
COMMENT ON FUNCTION tokens_cost(text, text, date, bigint, bigint) IS
    'What tokens of a day cost, in the list''s currency; NULL if there was no price for some of them.';

CREATE OR REPLACE FUNCTION list_currency(p_price_list text) RETURNS text
    LANGUAGE sql STABLE
    RETURN (SELECT l.currency::text FROM price_lists l WHERE l.price_list = p_price_list);
