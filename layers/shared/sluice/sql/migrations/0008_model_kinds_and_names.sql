-- min_compatible_version: 1
-- Models get a kind, bounds for what a conversation costs beyond its text, and other names.

ALTER TABLE models
    ADD COLUMN kind varchar(20) NOT NULL DEFAULT 'chat'
        CONSTRAINT models_kind_known CHECK (kind IN ('chat', 'embedding')),
    ADD COLUMN item_tokens integer NOT NULL DEFAULT 16
        CONSTRAINT models_item_tokens_not_negative CHECK (item_tokens >= 0),
    ADD COLUMN image_tokens integer
        CONSTRAINT models_image_tokens_not_negative CHECK (image_tokens >= 0);
-- Every model that exists is of kind chat, and the table is short: the scans find nothing and take no time.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE models ADD CONSTRAINT models_bedrock_only_chats CHECK (backend <> 'bedrock' OR kind = 'chat');
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE models ADD CONSTRAINT models_default_chats CHECK (kind = 'chat' OR NOT is_default);
COMMENT ON COLUMN models.kind IS 'chat: it answers a conversation; embedding: it turns texts into vectors.';
COMMENT ON COLUMN models.overhead_tokens IS 'The most tokens that the chat template adds to a prompt of one message.';
COMMENT ON COLUMN models.item_tokens IS
    'The most tokens that the chat template adds for each further message, call and tool.';
COMMENT ON COLUMN models.image_tokens IS 'The most tokens that an image counts; NULL: the model takes no images.';

CREATE TABLE model_aliases (
    alias      varchar(255) PRIMARY KEY,
    model_id   varchar(255) NOT NULL REFERENCES models,
    created_at timestamptz  NOT NULL DEFAULT now(),
    updated_at timestamptz  NOT NULL DEFAULT now()
);
COMMENT ON TABLE model_aliases IS
    'Other names under which clients may ask for a model. None is the id of a model: see alias.set and model.set.';
