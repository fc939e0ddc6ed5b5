-- min_compatible_version: 1
-- Batches: many requests in a file, which are answered in a file.

-- The first lock is the one that others take first (see 0007_token_classes.sql). No row is read or rewritten meanwhile.
LOCK TABLE quota_plans IN EXCLUSIVE MODE;
LOCK TABLE inflight IN ACCESS EXCLUSIVE MODE;

ALTER TABLE inflight ADD COLUMN batch_id uuid;
COMMENT ON COLUMN inflight.batch_id IS 'The batch of which it is a line, and which counts how it ends. NULL: none.';

ALTER TABLE webhook_events ADD COLUMN batch_id uuid;
COMMENT ON COLUMN webhook_events.batch_id IS 'Of an event about a batch. NULL with request_id NULL: a test.';
COMMENT ON COLUMN webhook_events.request_id IS 'NULL: it is about a batch, or a test.';

CREATE TABLE batches (
    batch_id              uuid         NOT NULL DEFAULT uuidv7() PRIMARY KEY,
    user_id               varchar(255) NOT NULL REFERENCES users,
    key_id                uuid         NOT NULL REFERENCES api_keys,
    endpoint              varchar(30)  NOT NULL,
    completion_window     varchar(10)  NOT NULL,
    metadata              jsonb,
    input_file_id         uuid         NOT NULL,
    input_object_id       uuid         NOT NULL,
    output_expires_seconds integer,
    status                varchar(20)  NOT NULL DEFAULT 'validating',
    created_at            timestamptz  NOT NULL,
    expires_at            timestamptz  NOT NULL,
    in_progress_at        timestamptz,
    finalizing_at         timestamptz,
    cancelling_at         timestamptz,
    ended_at              timestamptz,
    cancel_reason         varchar(20),
    faults                jsonb,
    scanned_bytes         bigint       NOT NULL DEFAULT 0,
    scanned_lines         integer      NOT NULL DEFAULT 0,
    fed_to                integer      NOT NULL DEFAULT 0,
    total                 integer      NOT NULL DEFAULT 0,
    fed                   integer      NOT NULL DEFAULT 0,
    completed             integer      NOT NULL DEFAULT 0,
    failed                integer      NOT NULL DEFAULT 0,
    usage                 jsonb,
    output_file_id        uuid,
    error_file_id         uuid,
    attempt               integer      NOT NULL DEFAULT 0,
    next_at               timestamptz,
    leased_until          timestamptz,
    refill_at             integer      NOT NULL DEFAULT -1,
    waits_for             varchar(50),
    CONSTRAINT batches_status_known CHECK (status IN ('validating', 'in_progress', 'finalizing', 'cancelling',
                                                      'completed', 'failed', 'expired', 'cancelled')),
    CONSTRAINT batches_ended_has_time
        CHECK ((ended_at IS NOT NULL) = (status IN ('completed', 'failed', 'expired', 'cancelled'))),
    CONSTRAINT batches_ended_is_never_due CHECK ((next_at IS NULL) = (ended_at IS NOT NULL)),
    CONSTRAINT batches_cancelling_has_a_reason CHECK ((cancelling_at IS NULL) = (cancel_reason IS NULL)),
    CONSTRAINT batches_counts_in_order
        CHECK (completed >= 0 AND failed >= 0 AND completed + failed <= total AND fed <= total)
) WITH (fillfactor = 50);
CREATE INDEX batches_of_user ON batches (user_id, batch_id);
CREATE INDEX batches_unended ON batches (next_at) WHERE next_at IS NOT NULL;
-- What a batch reads is kept until it has ended, even if its file is deleted.
CREATE INDEX batches_inputs ON batches (input_object_id) WHERE next_at IS NOT NULL;
COMMENT ON TABLE batches IS 'Files of requests: how far each has come, and the files with the answers.';
COMMENT ON COLUMN batches.key_id IS 'The key it was made with, whose requests its lines are.';
COMMENT ON COLUMN batches.cancel_reason IS 'user, operator, key_revoked or user_inactive.';
COMMENT ON COLUMN batches.faults IS 'What is wrong with the lines of its file; then it fails as a whole.';
COMMENT ON COLUMN batches.scanned_bytes IS 'How far its file was read: the line after scanned_lines begins there.';
COMMENT ON COLUMN batches.fed_to IS 'The last line that was submitted or refused; the next one has a higher number.';
COMMENT ON COLUMN batches.fed IS 'How many lines were submitted or refused.';
COMMENT ON COLUMN batches.total IS 'How many lines there are to be submitted.';
COMMENT ON COLUMN batches.completed IS 'Lines that were answered: those of the output file.';
COMMENT ON COLUMN batches.failed IS
    'Lines that were refused, failed, expired, were cancelled, or never submitted: those of the error file.';
COMMENT ON COLUMN batches.attempt IS 'Claims so far. Also the fencing token: only the last one may go on.';
COMMENT ON COLUMN batches.next_at IS 'When it is to be worked on again; NULL: never, it has ended.';
COMMENT ON COLUMN batches.refill_at IS
    'It is to be worked on at once when no more than so many of its requests are unfinished; -1: it waits for next_at.';
COMMENT ON COLUMN batches.waits_for IS 'The code of the refusal because of which its next line waits; NULL: none.';

CREATE TABLE batch_lines (
    batch_id   uuid         NOT NULL REFERENCES batches ON DELETE CASCADE,
    line       integer      NOT NULL,
    custom_id  varchar(512) NOT NULL,
    position   bigint       NOT NULL,
    length     integer      NOT NULL,
    request_id uuid,
    error      jsonb,
    PRIMARY KEY (batch_id, line),
    CONSTRAINT batch_lines_custom_id_key UNIQUE (batch_id, custom_id),
    CONSTRAINT batch_lines_submitted_or_refused CHECK (request_id IS NULL OR error IS NULL)
) WITH (fillfactor = 80);
-- A request is one line's at most.
CREATE UNIQUE INDEX batch_lines_request ON batch_lines (request_id) WHERE request_id IS NOT NULL;
COMMENT ON TABLE batch_lines IS
    'The lines of batches, from the moment when they were found until 30 days after the batch has ended.';
COMMENT ON COLUMN batch_lines.line IS 'Its number in the file, from 1; empty lines are counted too.';
COMMENT ON COLUMN batch_lines.position IS 'Where in the file it begins, in bytes.';
COMMENT ON COLUMN batch_lines.request_id IS 'The request that was made of it.';
COMMENT ON COLUMN batch_lines.error IS
    'Why none was made: status_code and body, as the endpoint would have answered. NULL with request_id NULL: it was '
    'not submitted (yet).';
