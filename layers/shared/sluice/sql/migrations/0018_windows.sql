-- min_compatible_version: 1
-- Completion windows: by when a caller needs the answer, what waiting costs, and whether the promise was kept.

-- All locks at once, and first those that others take first (see 0007_token_classes.sql). Nothing is read or rewritten
-- meanwhile, except what is unfinished and the keys of usage: rows by user, day and model.
LOCK TABLE quota_plans, inflight, usage_by_model, usage_by_attribute, billed_usage, requests, requests_archive
    IN ACCESS EXCLUSIVE MODE;

ALTER TABLE quota_plans ADD COLUMN has_windows boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN quota_plans.has_windows IS
    'Whether the user has ever sent a request with a completion window, so that the requests of those who have not '
    'need not look for any.';

ALTER TABLE requests ADD COLUMN completion_window varchar(10);
ALTER TABLE requests ADD COLUMN due_at timestamptz;
ALTER TABLE requests_archive ADD COLUMN completion_window varchar(10);
ALTER TABLE requests_archive ADD COLUMN due_at timestamptz;
COMMENT ON COLUMN requests.completion_window IS
    'Within which time it is to be answered, and by which prices it is billed (window_lists); see '
    'completion_windows(). NULL: as soon as possible.';
COMMENT ON COLUMN requests.due_at IS 'The end of the completion window.';

-- Not enforced, like the others of these tables (see 0006_hot_path.sql), so no row is read.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE requests ADD CONSTRAINT requests_window_is_due
    CHECK ((completion_window IS NULL) = (due_at IS NULL)) NOT ENFORCED;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE requests_archive ADD CONSTRAINT requests_window_is_due
    CHECK ((completion_window IS NULL) = (due_at IS NULL)) NOT ENFORCED;

-- A view keeps the columns that its tables had when it was made.
CREATE OR REPLACE VIEW requests_all WITH (security_invoker = true) AS
    SELECT * FROM requests UNION ALL SELECT * FROM requests_archive;

-- Waiting ------------------------------------------------------------------------------------------------------------

ALTER TABLE inflight ADD COLUMN priority smallint NOT NULL DEFAULT 0;
ALTER TABLE inflight ADD COLUMN promote_at timestamptz;
COMMENT ON COLUMN inflight.priority IS
    '0: as soon as possible, or promoted. 1: the waiting class, which is dispatched where others leave room.';
COMMENT ON COLUMN inflight.promote_at IS
    'When its priority becomes 0, so that it is answered within its completion window. NULL: it has none.';

-- Not enforced, like the others of this table.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE inflight ADD CONSTRAINT inflight_waiting_is_promoted
    CHECK (priority = 0 OR priority = 1 AND promote_at IS NOT NULL) NOT ENFORCED;

-- The table holds what is unfinished, so the indexes are built in no time.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX inflight_waiting;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX inflight_waiting ON inflight (user_id, priority, request_id) WHERE dispatched_at IS NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX inflight_promotions ON inflight (promote_at) WHERE priority > 0;

CREATE TABLE dispatch_capacity (
    only_row      boolean PRIMARY KEY DEFAULT true,
    waiting_room  integer NOT NULL DEFAULT 25,
    waiting_share integer,
    CONSTRAINT dispatch_capacity_has_one_row CHECK (only_row),
    CONSTRAINT dispatch_capacity_room_positive CHECK (waiting_room > 0),
    CONSTRAINT dispatch_capacity_share_positive CHECK (waiting_share > 0)
);
COMMENT ON TABLE dispatch_capacity IS 'How much of the workers the waiting class may use.';
COMMENT ON COLUMN dispatch_capacity.waiting_room IS
    'Requests of the waiting class are dispatched while fewer than so many of all users'' requests are dispatched: '
    'half of what the workers can take at once, written at each deployment.';
COMMENT ON COLUMN dispatch_capacity.waiting_share IS
    'How many of them a user may have dispatched before the next run of the recovery task, which divides the room '
    'among those who wait; NULL: only one of them waits, or none.';
INSERT INTO dispatch_capacity DEFAULT VALUES;

-- Prices -------------------------------------------------------------------------------------------------------------

CREATE TABLE window_lists (
    price_list        varchar(255) NOT NULL REFERENCES price_lists,
    completion_window varchar(10)  NOT NULL,
    valid_from        date         NOT NULL,
    window_list       varchar(255) NOT NULL REFERENCES price_lists,
    PRIMARY KEY (price_list, completion_window, valid_from)
);
COMMENT ON TABLE window_lists IS
    'By which list requests with a completion window are billed, of users who are billed by price_list: from the start '
    'of a day (UTC) until the next row of the same list and window begins. Without a row: by price_list itself.';

-- The keys of usage grow by the completion window. Until the functions are replaced, right after this migration, a
-- rollup fails that runs in between, and the next one does its work.
ALTER TABLE usage_by_model ADD COLUMN completion_window varchar(10) NOT NULL DEFAULT 'soonest';
ALTER TABLE usage_by_attribute ADD COLUMN completion_window varchar(10) NOT NULL DEFAULT 'soonest';
ALTER TABLE billed_usage ADD COLUMN completion_window varchar(10) NOT NULL DEFAULT 'soonest';
COMMENT ON COLUMN usage_by_model.completion_window IS 'That of its requests; soonest: they have none.';
-- squawk-ignore ban-drop-constraint
ALTER TABLE usage_by_model DROP CONSTRAINT usage_by_model_pkey;
-- squawk-ignore constraint-missing-not-valid, adding-serial-primary-key-field
ALTER TABLE usage_by_model ADD CONSTRAINT usage_by_model_pkey
    PRIMARY KEY (user_id, period, period_start, model_id, completion_window);
-- squawk-ignore ban-drop-constraint
ALTER TABLE usage_by_attribute DROP CONSTRAINT usage_by_attribute_key;
-- squawk-ignore constraint-missing-not-valid, disallowed-unique-constraint
ALTER TABLE usage_by_attribute ADD CONSTRAINT usage_by_attribute_key
    UNIQUE NULLS NOT DISTINCT (user_id, day, attribute, value, model_id, completion_window);
-- squawk-ignore ban-drop-constraint
ALTER TABLE billed_usage DROP CONSTRAINT billed_usage_key;
-- squawk-ignore constraint-missing-not-valid, disallowed-unique-constraint
ALTER TABLE billed_usage ADD CONSTRAINT billed_usage_key
    UNIQUE NULLS NOT DISTINCT (statement_id, day, attribute, value, model_id, completion_window);

-- What a promise was worth -------------------------------------------------------------------------------------------

CREATE TABLE window_stats (
    day               date        NOT NULL,
    completion_window varchar(10) NOT NULL,
    kept              bigint      NOT NULL DEFAULT 0,
    missed            bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (day, completion_window)
) WITH (fillfactor = 80);
COMMENT ON TABLE window_stats IS
    'Whether requests ended within their completion windows, by the day (UTC) on which they were accepted.';
COMMENT ON COLUMN window_stats.kept IS 'Those that were completed, or failed, by the end of their window.';
COMMENT ON COLUMN window_stats.missed IS
    'Those that ended later, or expired. Requests that were cancelled are neither.';
