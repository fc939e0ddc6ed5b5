-- min_compatible_version: 1
-- Files that users upload, and that batches make.

ALTER TABLE objects ALTER COLUMN request_id DROP NOT NULL;
-- squawk-ignore ban-drop-constraint
ALTER TABLE objects DROP CONSTRAINT objects_class_known;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE objects ADD CONSTRAINT objects_class_known CHECK (object_class IN ('inputs', 'results', 'files'));

CREATE TABLE files (
    file_id     uuid         NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    user_id     varchar(255) NOT NULL REFERENCES users,
    purpose     varchar(20)  NOT NULL,
    filename    varchar(255) NOT NULL,
    byte_length bigint       NOT NULL,
    object_id   uuid         NOT NULL,
    batch_id    uuid,
    created_at  timestamptz  NOT NULL,
    expires_at  timestamptz,
    deleted_at  timestamptz
);
CREATE INDEX files_of_user ON files (user_id, file_id) WHERE deleted_at IS NULL;
