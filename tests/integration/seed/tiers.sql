WITH user_usage AS (
  SELECT
    user_id,
    MAX(requests_count) as max_requests,
    MAX(tokens_used) as max_tokens
  FROM usage
  WHERE period = 'monthly'
  GROUP BY user_id
)
SELECT
  u.user_id,
  u.max_requests,
  u.max_tokens,
  CASE
    WHEN u.max_tokens < 100000 THEN 'basic'
    WHEN u.max_tokens < 1000000 THEN 'standard'
    ELSE 'premium'
  END as recommended_tier
FROM user_usage u
