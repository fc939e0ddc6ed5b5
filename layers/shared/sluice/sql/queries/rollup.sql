-- request_recover: take back expired claims, end what has no attempts or no time left.
SELECT requeued, failed, expired FROM request_recover(%(at_most)s);

-- request_dispatch: mark and return what waits without a message and has room in its user's window.
SELECT request_id, user_id FROM request_dispatch(%(at_most)s);

-- request_redispatch: mark and return what the queue seems to have lost.
SELECT request_id, user_id FROM request_redispatch(%(queue_depth)s, %(grace_seconds)s, %(long_seconds)s, %(at_most)s);

-- rollup_usage: add what is new to usage.
SELECT rollup_usage() AS changed;

-- rollup_stats: add what is new to request_stats.
SELECT rollup_stats() AS changed;

-- partitions_ensure: make this month's and the next months' partitions where they are missing.
SELECT partitions_ensure AS name FROM partitions_ensure();

-- archive_months: move whole months that are old enough to the archive.
SELECT archive_months AS name FROM archive_months(make_interval(days => %(older_than_days)s));
