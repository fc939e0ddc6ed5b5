WITH user_quota AS (
  SELECT token_limit
  FROM quotas
  WHERE user_id = 'user123'
),
user_usage AS (
  SELECT COALESCE(SUM(total_tokens), 0) as tokens_used
  FROM requests
  WHERE user_id = 'user123'
  AND created_at >= DATE_TRUNC('month', CURRENT_DATE)
)
SELECT
  (SELECT token_limit FROM user_quota) -
  (SELECT tokens_used FROM user_usage) AS remaining_tokens
