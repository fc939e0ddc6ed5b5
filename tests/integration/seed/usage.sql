INSERT INTO usage (user_id, period, period_start, period_end, requests_count, tokens_used)
SELECT
  user_id,
  'monthly',
  DATE_TRUNC('month', CURRENT_DATE),
  (DATE_TRUNC('month', CURRENT_DATE) + INTERVAL '1 month - 1 day')::date,
  COUNT(*),
  COALESCE(SUM(total_tokens), 0)
FROM requests
WHERE
  created_at >= DATE_TRUNC('month', CURRENT_DATE) AND
  created_at < (DATE_TRUNC('month', CURRENT_DATE) + INTERVAL '1 month')
GROUP BY user_id
ON CONFLICT (user_id, period, period_start)
DO UPDATE SET
  requests_count = EXCLUDED.requests_count,
  tokens_used = EXCLUDED.tokens_used
