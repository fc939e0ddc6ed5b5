-- min_compatible_version: 1
-- Models whose answers are files: images and speech.

-- The new constraint allows what the old one did, and the table is short: the scan finds nothing and takes no time.
-- squawk-ignore ban-drop-constraint
ALTER TABLE models DROP CONSTRAINT models_kind_known;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE models ADD CONSTRAINT models_kind_known CHECK (kind IN ('chat', 'embedding', 'image', 'speech'));
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE models ADD CONSTRAINT models_files_by_openai CHECK (backend = 'openai' OR kind NOT IN ('image', 'speech'));
COMMENT ON COLUMN models.kind IS
    'chat: it answers a conversation; embedding: it turns texts into vectors; image: it draws what a text describes; '
    'speech: it reads a text aloud.';
COMMENT ON COLUMN models.max_tokens_default IS
    'What a request may write if it does not say so; of kind image, what an image counts if the model does not say so.';
COMMENT ON COLUMN models.max_tokens_limit IS
    'The most that a request may write; of kind image, what an image reserves and counts at most.';
COMMENT ON TABLE binary_results IS
    'The bytes of answers that are files. Each has a row in results too, with the same id, which describes it.';
