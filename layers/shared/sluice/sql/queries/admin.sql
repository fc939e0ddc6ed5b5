-- admin_act: do what an operator asks for, audited in the same commit.
SELECT admin_act(%(operation)s, %(arguments)s, %(invocation)s) AS result;

-- admin_refused: note that an act was refused, and why.
SELECT admin_refused(%(operation)s, %(code)s, %(user_id)s, %(key_id)s, %(invocation)s);

-- admin_noted: note an act of which another function does the work.
SELECT admin_noted(%(action)s, %(after)s, %(invocation)s);

-- user_get: one user with the tier.
SELECT u.user_id, u.name, u.email, p.tier, u.is_active, u.created_at, u.updated_at
FROM users u LEFT JOIN quota_plans p ON p.user_id = u.user_id
WHERE u.user_id = %(user_id)s;

-- user_list: users after a given one, with their tiers.
SELECT u.user_id, u.name, u.email, p.tier, u.is_active, u.created_at, u.updated_at
FROM users u LEFT JOIN quota_plans p ON p.user_id = u.user_id
WHERE u.user_id > %(after)s
ORDER BY u.user_id LIMIT %(at_most)s;

-- key_list: a user's keys, newest first; one row without a key where the user has none.
SELECT k.key_id, u.user_id, k.key_prefix, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
FROM users u LEFT JOIN api_keys k ON k.user_id = u.user_id
WHERE u.user_id = %(user_id)s ORDER BY k.key_id DESC;

-- tier_list: every tier, or the one named, with its limits.
SELECT tier_view(t.tier) AS tier FROM tiers t
LEFT JOIN tier_limits l ON l.tier = t.tier AND l.quota_period = 'monthly'
WHERE %(tier)s::text IS NULL OR t.tier = %(tier)s
ORDER BY l.max_tokens NULLS LAST, t.tier;

-- quota_get: a user's plan, limits and counters.
SELECT quota_report(%(user_id)s) AS quota;

-- price_list: prices of a list, of a model, of a day, or all.
SELECT price_list, currency, model_id, token_class, price_per_million, valid_from, valid_until
FROM price_registry
WHERE (%(price_list)s::text IS NULL OR price_list = %(price_list)s)
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s)
  AND (%(on)s::date IS NULL OR valid_from <= %(on)s AND coalesce(valid_until, 'infinity') > %(on)s)
ORDER BY price_list, model_id, token_class DESC, valid_from;

-- price_list_get: a price list by its name.
SELECT price_list, currency FROM price_lists WHERE price_list = %(price_list)s;

-- model_list: every model, offered or not, with its current prices.
SELECT model_id, backend, backend_model, endpoint, secret_arn, max_tokens_default, max_tokens_limit,
       overhead_tokens, timeout_seconds, is_default, is_active, prices, created_at, updated_at
FROM model_registry ORDER BY model_id;

-- request_list: requests, newest first.
SELECT request_id, user_id, model_id, status, attempts, error_code, error_message, created_at, started_at, completed_at,
       prompt_tokens, completion_tokens, waits_for, waits_until, last_error
FROM request_list(%(user_id)s, %(status)s, %(error_code)s, %(start)s, %(end)s, %(before)s, %(at_most)s);

-- usage_report: a user's limits, and usage by day, model and token class with the prices of each day.
SELECT plan, usage, price_list, currency, unfinished
FROM usage_report(%(user_id)s, %(first_day)s, %(last_day)s, %(price_list)s);

-- tier_analysis: users' largest months, and what each tier would have cost them.
SELECT user_id, tier, months, max_requests, max_tokens, candidate, fits, price_list, currency, cost, unpriced_tokens
FROM tier_analysis(%(user_id)s, %(first_month)s, %(last_month)s, %(after)s, %(at_most)s);

-- audit_list: audit rows, oldest first.
SELECT audit_id, at, actor, action, user_id, key_id, request_id, invocation, before, after
FROM audit_entries(%(user_id)s, %(request_id)s, %(action)s, %(start)s, %(end)s, %(after)s, %(at_most)s);
