SELECT request_id, prompt, status, created_at, processing_time_ms
FROM requests
WHERE user_id = 'user123'
ORDER BY created_at DESC
LIMIT 10
