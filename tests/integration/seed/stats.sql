CREATE MATERIALIZED VIEW request_stats AS
SELECT
    date_trunc('day', created_at) AS day,
    user_id,
    model_id,
    COUNT(*) AS request_count,
    AVG(processing_time_ms) AS avg_processing_time,
    SUM(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failure_count
FROM
    requests
GROUP BY
    date_trunc('day', created_at),
    user_id,
    model_id
