-- min_compatible_version: 1
-- What is too large for the database: objects in the bucket, each with a row here.

CREATE TABLE objects (
    object_id    uuid         PRIMARY KEY,
    object_class varchar(20)  NOT NULL,
    user_id      varchar(255) NOT NULL REFERENCES users,
    request_id   uuid         NOT NULL,
    key          varchar(1024) COLLATE "C" NOT NULL,
    mime_type    varchar(100) NOT NULL,
    byte_length  bigint       NOT NULL,
    sha256       bytea        NOT NULL,
    version_id   varchar(1024),
    created_at   timestamptz  NOT NULL DEFAULT clock_timestamp(),
    deleted_at   timestamptz,
    missing_at   timestamptz,
    CONSTRAINT objects_class_known CHECK (object_class IN ('inputs', 'results')),
    CONSTRAINT objects_length_not_negative CHECK (byte_length >= 0),
    CONSTRAINT objects_sha256_is_sha256 CHECK (octet_length(sha256) = 32)
) WITH (fillfactor = 90);
-- In the order in which a bucket lists its objects.
CREATE UNIQUE INDEX objects_key ON objects (key);
CREATE INDEX objects_of_request ON objects (request_id);
CREATE INDEX objects_deleted ON objects (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX objects_missing ON objects (missing_at) WHERE missing_at IS NOT NULL;
COMMENT ON TABLE objects IS
    'What is kept in the bucket. A row is written in the commit that makes it part of something, after the object.';
COMMENT ON COLUMN objects.key IS 'The object''s name in the bucket, by which the bucket orders: byte by byte.';
COMMENT ON COLUMN objects.request_id IS 'Whose input or answer it is.';
COMMENT ON COLUMN objects.version_id IS 'The version that was written; NULL: the bucket keeps none.';
COMMENT ON COLUMN objects.deleted_at IS
    'Nothing refers to it any more. The next sweep deletes the object, then the row.';
COMMENT ON COLUMN objects.missing_at IS 'When a sweep did not find the object.';

ALTER TABLE binary_results ADD COLUMN object_id uuid;
COMMENT ON COLUMN binary_results.object_id IS 'The object that holds the bytes; then content is empty.';
COMMENT ON TABLE binary_results IS
    'The bytes of answers that are files, and where answers are that are too large for the database. Each has a row in '
    'results too, with the same id, which describes it.';

CREATE TABLE object_sweep (
    only_row    boolean     PRIMARY KEY DEFAULT true,
    after_key   varchar(1024) COLLATE "C",
    began_at    timestamptz,
    finished_at timestamptz,
    CONSTRAINT object_sweep_has_one_row CHECK (only_row)
);
COMMENT ON TABLE object_sweep IS 'How far the comparison of the bucket with the table objects has got.';
COMMENT ON COLUMN object_sweep.after_key IS 'The last key that was compared; NULL: it begins anew.';
COMMENT ON COLUMN object_sweep.finished_at IS 'When all of the bucket had been compared the last time.';
INSERT INTO object_sweep DEFAULT VALUES;
