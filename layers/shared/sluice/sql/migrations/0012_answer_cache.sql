-- min_compatible_version: 1
-- Answers that are given again, and equal requests that share one call of a model.

-- All locks at once, and first those that others take first: submissions the keys and then the user locks (see also
-- 0007_token_classes.sql). Nothing is read or rewritten
-- meanwhile, except the few rows of prices and of what is unfinished.
LOCK TABLE api_keys, quota_plans, models, tiers, inflight, usage_by_model, usage_by_attribute, billed_usage, requests,
    requests_archive, prices IN ACCESS EXCLUSIVE MODE;

ALTER TABLE api_keys ADD COLUMN cache_max_age integer
    CONSTRAINT api_keys_cache_max_age_not_negative CHECK (cache_max_age >= 0);
ALTER TABLE models ADD COLUMN cache_max_age integer
    CONSTRAINT models_cache_max_age_not_negative CHECK (cache_max_age >= 0);
ALTER TABLE tiers ADD COLUMN cache_max_age integer
    CONSTRAINT tiers_cache_max_age_not_negative CHECK (cache_max_age >= 0);
ALTER TABLE quota_plans ADD COLUMN cache_max_age integer
    CONSTRAINT quota_plans_cache_max_age_not_negative CHECK (cache_max_age >= 0);
COMMENT ON COLUMN quota_plans.cache_max_age IS 'That of the tier.';
COMMENT ON COLUMN api_keys.cache_max_age IS
    'How old an answer may be, in seconds, that is given again to an equal request with this key which says nothing '
    'itself; 0: none is. NULL: what the model, or else the tier says.';

ALTER TABLE requests ADD COLUMN cached_from uuid;
ALTER TABLE requests_archive ADD COLUMN cached_from uuid;
COMMENT ON COLUMN requests.cached_from IS
    'The equal request of the user whose answer this one got without a call of a model; result_id is that one''s.';
CREATE OR REPLACE VIEW requests_all WITH (security_invoker = true) AS
    SELECT * FROM requests UNION ALL SELECT * FROM requests_archive;

ALTER TABLE inflight ADD COLUMN fingerprint bytea;
ALTER TABLE inflight ADD COLUMN cache_scope uuid;
ALTER TABLE inflight ADD COLUMN follows uuid;
COMMENT ON COLUMN inflight.fingerprint IS
    'With cache_scope, where its answer will be found again (see answer_cache). NULL: it will not.';
COMMENT ON COLUMN inflight.follows IS
    'The unfinished request, equal to this one, whose answer this one waits for. It is not dispatched itself.';
-- The table holds what is unfinished, so the index is built in no time.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX inflight_followers ON inflight (follows, request_id) WHERE follows IS NOT NULL;

CREATE TABLE answer_cache (
    user_id     varchar(255) NOT NULL REFERENCES users,
    fingerprint bytea        NOT NULL,
    cache_scope uuid         NOT NULL,
    model_id    varchar(255) NOT NULL REFERENCES models,
    leader_id   uuid,
    request_id  uuid,
    result_id   uuid,
    answered_at timestamptz,
    PRIMARY KEY (user_id, fingerprint, cache_scope),
    CONSTRAINT answer_cache_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT answer_cache_answer_is_whole
        CHECK ((result_id IS NULL) = (request_id IS NULL) AND (result_id IS NULL) = (answered_at IS NULL)),
    CONSTRAINT answer_cache_has_something CHECK (result_id IS NOT NULL OR leader_id IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX answer_cache_age ON answer_cache (answered_at);
COMMENT ON TABLE answer_cache IS
    'Where the answers of a user''s requests are found again, and which unfinished request is asking a question now.';
COMMENT ON COLUMN answer_cache.fingerprint IS 'Of what was asked: see question_fingerprint().';
COMMENT ON COLUMN answer_cache.cache_scope IS
    'The API key whose requests may have the answer; all zeros: any request of the user.';
COMMENT ON COLUMN answer_cache.leader_id IS 'The unfinished request that equal ones follow.';
COMMENT ON COLUMN answer_cache.request_id IS 'The request whose answer it is.';

ALTER TABLE usage_by_model ADD COLUMN cached_answers bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_by_attribute ADD COLUMN cached_answers bigint NOT NULL DEFAULT 0;
ALTER TABLE billed_usage ADD COLUMN cached_answers bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN usage_by_model.cached_answers IS
    'Those of its requests that were answered without a call of a model.';

-- squawk-ignore ban-drop-constraint
ALTER TABLE prices DROP CONSTRAINT prices_token_class_known;
-- The table has a few rows for each model.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE prices ADD CONSTRAINT prices_token_class_known
    CHECK (token_class IN ('prompt', 'cached_prompt', 'completion', 'reasoning', 'cached_answer'));
