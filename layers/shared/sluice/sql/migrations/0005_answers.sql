-- min_compatible_version: 1
-- How an answer ended is kept on its request. Rows from before have NULL: it is in their results only.

ALTER TABLE requests ADD COLUMN finish_reason varchar(20);
ALTER TABLE requests_archive ADD COLUMN finish_reason varchar(20);
-- Both have this constraint, validated, so that a month can be moved from one to the other. The scan is short: nothing
-- was released yet, so no table is large.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE requests ADD CONSTRAINT requests_finish_reason_known
    CHECK (finish_reason IN ('stop', 'length', 'content_filter', 'tool_calls', 'refusal', 'other'));
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE requests_archive ADD CONSTRAINT requests_finish_reason_known
    CHECK (finish_reason IN ('stop', 'length', 'content_filter', 'tool_calls', 'refusal', 'other'));
COMMENT ON COLUMN requests.finish_reason IS
    'Why the model stopped, in a completed request; NULL if it did not say.';

-- A view keeps the columns that its tables had when it was made.
CREATE OR REPLACE VIEW requests_all WITH (security_invoker = true) AS
    SELECT * FROM requests UNION ALL SELECT * FROM requests_archive;

ALTER TABLE request_stats ADD COLUMN incomplete_count bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN request_stats.incomplete_count IS
    'Completed requests whose finish_reason is another than stop: what the client got is no whole answer.';
