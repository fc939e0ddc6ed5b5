-- min_compatible_version: 1
-- Tokens of the prompt that came from a cache, and tokens of the completion that were reasoning: counted, and priced by
-- themselves where there are prices for them. Rows from before have none: NULL in requests, 0 in usage.

-- All locks at once, and first those that others take first: submissions and settlements the user locks, rollups and
-- reports usage and then requests, readers of a request its row and then the prices. Nothing is read or rewritten
-- meanwhile, except the few rows of prices.
LOCK TABLE quota_plans IN EXCLUSIVE MODE;
LOCK TABLE usage_by_model, usage_by_attribute, billed_usage, requests, requests_archive, prices
    IN ACCESS EXCLUSIVE MODE;

ALTER TABLE requests ADD COLUMN cached_tokens integer;
ALTER TABLE requests ADD COLUMN reasoning_tokens integer;
ALTER TABLE requests_archive ADD COLUMN cached_tokens integer;
ALTER TABLE requests_archive ADD COLUMN reasoning_tokens integer;
COMMENT ON COLUMN requests.cached_tokens IS
    'Those of prompt_tokens that the model read from a cache; NULL: none that are known.';
COMMENT ON COLUMN requests.reasoning_tokens IS
    'Those of completion_tokens that the model wrote before its answer; NULL: none that are known.';

-- Not enforced, like the others of these tables (see 0006_hot_path.sql), so no row is read.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE requests ADD CONSTRAINT requests_cached_within_prompt
    CHECK (coalesce(cached_tokens, 0) BETWEEN 0 AND coalesce(prompt_tokens, 0)) NOT ENFORCED;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE requests_archive ADD CONSTRAINT requests_cached_within_prompt
    CHECK (coalesce(cached_tokens, 0) BETWEEN 0 AND coalesce(prompt_tokens, 0)) NOT ENFORCED;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE requests ADD CONSTRAINT requests_reasoning_within_completion
    CHECK (coalesce(reasoning_tokens, 0) BETWEEN 0 AND coalesce(completion_tokens, 0)) NOT ENFORCED;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE requests_archive ADD CONSTRAINT requests_reasoning_within_completion
    CHECK (coalesce(reasoning_tokens, 0) BETWEEN 0 AND coalesce(completion_tokens, 0)) NOT ENFORCED;

-- A view keeps the columns that its tables had when it was made.
CREATE OR REPLACE VIEW requests_all WITH (security_invoker = true) AS
    SELECT * FROM requests UNION ALL SELECT * FROM requests_archive;

ALTER TABLE usage_by_model ADD COLUMN cached_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_by_model ADD COLUMN reasoning_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_by_attribute ADD COLUMN cached_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_by_attribute ADD COLUMN reasoning_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE billed_usage ADD COLUMN cached_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE billed_usage ADD COLUMN reasoning_tokens bigint NOT NULL DEFAULT 0;

-- squawk-ignore ban-drop-constraint
ALTER TABLE prices DROP CONSTRAINT prices_token_class_known;
-- The table has a few rows for each model.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE prices ADD CONSTRAINT prices_token_class_known
    CHECK (token_class IN ('prompt', 'cached_prompt', 'completion', 'reasoning'));
