-- min_compatible_version: 1
-- Requests come by several surfaces, and what they hold can be erased.

ALTER TABLE prompts ADD COLUMN surface jsonb;
ALTER TABLE prompts ADD COLUMN erased_at timestamptz;
COMMENT ON COLUMN prompts.surface IS
    'The API by which the request came, where it was not POST /generate, and what that API shows again to the client '
    'without using it: see sluice.domain.requests.Submission.';
COMMENT ON COLUMN prompts.erased_at IS
    'When its user had the content of the request and of its answer erased. What was used and paid for stays.';
