-- min_compatible_version: 1
-- Files that users upload, at once or in parts, and that batches make; and how many bytes of them a user may have.

-- First the locks that others take first (see 0007_token_classes.sql). No row is read or rewritten meanwhile.
LOCK TABLE quota_plans, tiers, objects IN ACCESS EXCLUSIVE MODE;

ALTER TABLE tiers ADD COLUMN max_file_bytes bigint
    CONSTRAINT tiers_max_file_bytes_not_negative CHECK (max_file_bytes >= 0);
ALTER TABLE quota_plans ADD COLUMN max_file_bytes bigint
    CONSTRAINT quota_plans_max_file_bytes_not_negative CHECK (max_file_bytes >= 0);
COMMENT ON COLUMN quota_plans.max_file_bytes IS
    'How many bytes the user''s files may have in all. NULL: there is no limit.';

-- The version before reads it of inputs and answers only, which have one.
-- squawk-ignore ban-drop-not-null
ALTER TABLE objects ALTER COLUMN request_id DROP NOT NULL;
COMMENT ON COLUMN objects.request_id IS 'Whose input or answer it is; NULL: it is a file, or a part of an upload.';
-- squawk-ignore ban-drop-constraint
ALTER TABLE objects DROP CONSTRAINT objects_class_known;
-- No row has a class that the new list lacks.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE objects ADD CONSTRAINT objects_class_known
    CHECK (object_class IN ('inputs', 'results', 'files', 'uploads'));

CREATE TABLE files (
    file_id     uuid         NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    user_id     varchar(255) NOT NULL REFERENCES users,
    purpose     varchar(20)  NOT NULL,
    filename    varchar(255) NOT NULL,
    mime_type   varchar(100) NOT NULL,
    byte_length bigint       NOT NULL,
    object_id   uuid         NOT NULL,
    batch_id    uuid,
    created_at  timestamptz  NOT NULL,
    expires_at  timestamptz,
    deleted_at  timestamptz,
    CONSTRAINT files_purpose_known CHECK (purpose IN ('batch', 'vision', 'user_data', 'batch_output')),
    CONSTRAINT files_length_not_negative CHECK (byte_length >= 0),
    CONSTRAINT files_of_batches_are_outputs CHECK ((batch_id IS NOT NULL) = (purpose = 'batch_output'))
);
CREATE INDEX files_of_user ON files (user_id, file_id) INCLUDE (byte_length, expires_at) WHERE deleted_at IS NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX files_object ON files (object_id);
COMMENT ON TABLE files IS 'Files of users. A row stays when its file is deleted.';
COMMENT ON COLUMN files.batch_id IS 'The batch that made it; NULL: its user uploaded it.';
COMMENT ON COLUMN files.expires_at IS 'From then on it is as good as deleted; NULL: it stays until it is.';

CREATE TABLE uploads (
    upload_id            uuid         NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    user_id              varchar(255) NOT NULL REFERENCES users,
    purpose              varchar(20)  NOT NULL,
    filename             varchar(255) NOT NULL,
    mime_type            varchar(100) NOT NULL,
    byte_length          bigint       NOT NULL,
    file_expires_seconds integer,
    status               varchar(20)  NOT NULL DEFAULT 'pending',
    created_at           timestamptz  NOT NULL,
    expires_at           timestamptz  NOT NULL,
    file_id              uuid REFERENCES files,
    CONSTRAINT uploads_status_known CHECK (status IN ('pending', 'completed', 'cancelled', 'expired')),
    CONSTRAINT uploads_completed_has_file CHECK ((status = 'completed') = (file_id IS NOT NULL))
);
CREATE INDEX uploads_pending ON uploads (user_id) INCLUDE (byte_length, expires_at) WHERE status = 'pending';
CREATE INDEX uploads_expiring ON uploads (expires_at) WHERE status = 'pending';
COMMENT ON COLUMN uploads.byte_length IS 'What was announced: all parts have so many bytes together.';

CREATE TABLE upload_parts (
    part_id     uuid        NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    upload_id   uuid        NOT NULL REFERENCES uploads,
    object_id   uuid        NOT NULL,
    byte_length bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    CONSTRAINT upload_parts_length_positive CHECK (byte_length > 0)
);
CREATE INDEX upload_parts_of_upload ON upload_parts (upload_id);
CREATE UNIQUE INDEX upload_parts_object ON upload_parts (object_id);
COMMENT ON TABLE upload_parts IS 'Parts of uploads that are pending, each an object of its own.';
