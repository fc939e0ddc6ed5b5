-- Not the seed's: its names for our tables, so that its statements run on our rows.
CREATE SCHEMA seed;
CREATE VIEW seed.requests AS
    SELECT r.request_id, r.user_id, p.prompt, c.content AS result, r.result_id, r.status, r.created_at, r.updated_at,
           r.completed_at, r.processing_time_ms, r.estimated_tokens, r.prompt_tokens, r.completion_tokens,
           r.total_tokens, r.model_id, r.model_id AS model, r.error_message, r.error_message AS error
    FROM requests_all r JOIN prompts p USING (request_id) LEFT JOIN results c ON c.result_id = r.result_id;
CREATE VIEW seed.results AS SELECT result_id, content, token_count, created_at FROM results;
CREATE VIEW seed.quotas AS
    SELECT p.quota_id, p.user_id, q.max_requests AS request_limit, q.max_tokens AS token_limit, p.tier, p.reset_frequency
    FROM quota_plans p JOIN quotas q ON q.user_id = p.user_id AND q.quota_period = p.reset_frequency;
CREATE TABLE seed.usage (
    usage_id SERIAL PRIMARY KEY, user_id VARCHAR(50), period VARCHAR(20) NOT NULL, period_start DATE NOT NULL,
    period_end DATE NOT NULL, requests_count INTEGER DEFAULT 0, tokens_used INTEGER DEFAULT 0,
    UNIQUE(user_id, period, period_start)
);
SET timezone = 'UTC';
