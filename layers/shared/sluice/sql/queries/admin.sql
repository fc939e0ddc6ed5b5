-- user_create: a user with the plan of a tier.
SELECT user_id, name, email, tier_name AS tier, is_active, created_at
FROM user_create(%(user_id)s, %(name)s, %(email)s, %(tier)s);

-- user_list: users after a given one, with their tiers.
SELECT u.user_id, u.name, u.email, p.tier, u.is_active, u.created_at
FROM users u LEFT JOIN quota_plans p ON p.user_id = u.user_id
WHERE u.user_id > %(after)s
ORDER BY u.user_id LIMIT %(at_most)s;

-- key_create: keep a new key's hash; the key itself never comes here.
SELECT key_id, user_id, key_prefix, name, scopes, created_at, expires_at
FROM key_create(%(user_id)s, %(key_hash)s, %(key_prefix)s, %(name)s, %(scopes)s, %(expires_at)s);

-- key_list: a user's keys, newest first.
SELECT key_id, user_id, key_prefix, name, scopes, created_at, expires_at, revoked_at, last_used_at
FROM api_keys WHERE user_id = %(user_id)s ORDER BY key_id DESC;

-- key_revoke: end a key now.
SELECT key_id, user_id, revoked_at FROM key_revoke(%(key_id)s);

-- model_list: every model, offered or not, with its current prices.
SELECT model_id, backend, backend_model, endpoint, secret_arn, max_tokens_default, max_tokens_limit,
       overhead_tokens, timeout_seconds, is_default, is_active, prices, created_at, updated_at
FROM model_registry ORDER BY model_id;

-- model_set: make or replace a model's description.
SELECT model_id, backend, backend_model, endpoint, secret_arn, max_tokens_default, max_tokens_limit,
       overhead_tokens, timeout_seconds, is_default, is_active, prices, created_at, updated_at
FROM model_set(%(description)s, 'admin');
