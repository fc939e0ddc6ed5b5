-- min_compatible_version: 2
-- What a request waits for and why: attempts that came to nothing, counted apart from the fence; cancellation; redrives.
--
-- Code of version 2 works on: the functions that it calls keep their form.
--
-- inflight holds unfinished requests only: what scans it here is a matter of milliseconds.
-- What the dropped constraint promised, inflight_failures_in_range promises in its place.
-- squawk-ignore-file constraint-missing-not-valid, ban-drop-constraint

ALTER TABLE inflight
    ADD COLUMN failures smallint NOT NULL DEFAULT 0,
    ADD COLUMN lost smallint NOT NULL DEFAULT 0,
    ADD COLUMN last_error varchar(50),
    ADD COLUMN cancelled_at timestamptz,
    DROP CONSTRAINT inflight_attempt_in_range;
-- Until now every claim but the current one had failed.
UPDATE inflight SET failures = greatest(CASE status WHEN 'processing' THEN attempt - 1 ELSE attempt END, 0);
ALTER TABLE inflight
    ADD CONSTRAINT inflight_failures_in_range CHECK (failures BETWEEN 0 AND max_attempts AND failures <= attempt),
    ADD CONSTRAINT inflight_lost_are_failures CHECK (lost BETWEEN 0 AND failures);

COMMENT ON COLUMN inflight.attempt IS
    'How often it was claimed, ever: the fence. A settlement must name the same number.';
COMMENT ON COLUMN inflight.max_attempts IS 'How many of its attempts may come to nothing before it fails.';
COMMENT ON COLUMN inflight.failures IS
    'Attempts that came to nothing since it was last queued by a person; what a worker hands back unbegun is none.';
COMMENT ON COLUMN inflight.lost IS 'Those of them whose worker was never heard of again.';
COMMENT ON COLUMN inflight.last_error IS 'Why the last of them came to nothing, as error_code of requests.';
COMMENT ON COLUMN inflight.cancelled_at IS 'When the client gave it up while a worker had it: its answer will be dropped.';
COMMENT ON COLUMN inflight.dispatched_at IS
    'When its message was (about to be) sent, or it was woken by one; NULL: waits for its time, the window, or the sweep.';
COMMENT ON COLUMN quota_plans.dispatch_window IS
    'Most requests of the user that are dispatched (in the queue or at a worker) at once.';
