-- request_sweep: take back expired claims, end what has no attempts or no time left.
SELECT requeued, failed, expired, cancelled FROM request_sweep(%(at_most)s);

-- request_dispatch: mark and return what waits without a message and has room in its user's window.
SELECT request_id, user_id FROM request_dispatch(%(at_most)s);

-- request_redispatch: mark and return what the queue seems to have lost.
SELECT request_id, user_id FROM request_redispatch(%(queue_depth)s, %(grace_seconds)s, %(long_seconds)s, %(at_most)s);

-- request_resend: mark and return those of dead letters' requests that still wait for their message.
SELECT request_id, user_id FROM request_resend(%(ids)s);

-- rollup_usage: add what is new to usage.
SELECT rollup_usage() AS changed;

-- rollup_stats: add what is new to request_stats.
SELECT rollup_stats() AS changed;

-- partitions_ensure: make this month's and the next months' partitions where they are missing.
SELECT partitions_ensure AS name FROM partitions_ensure();

-- archive_months: move whole months that are old enough to the archive.
SELECT archive_months AS name FROM archive_months(make_interval(days => %(older_than_days)s));

-- idempotency_expire: delete idempotency keys whose time is over.
SELECT idempotency_expire(%(at_most)s) AS expired;

-- audit_seal: add what was committed since the last batch to the audit log's chain of hashes.
SELECT sealed, is_more, head FROM audit_seal(%(at_most)s);

-- audit_verify: compare batches of the chain with the rows that they sealed, up to the first that is wrong.
SELECT batches, row_count, last_batch, kind, audit_id, batch_no FROM audit_verify(%(after_batch)s, %(at_most)s);

-- audit_chain_since: the last batch that a check up to this transaction has seen.
SELECT audit_chain_since(%(xact_id)s) AS batch_no;

-- audit_chain_has: whether a head that was noted once is still in the chain.
SELECT audit_chain_has(%(batch_no)s, %(hash)s) AS known;

-- audit_head: number and hash of the chain's last batch.
SELECT audit_head() AS head;

-- books_check: what breaks an invariant, as of one snapshot.
SELECT every, checked, violations, seen_to FROM books_check(%(every)s);

-- books_checked_to: below which transaction the last check that found nothing has seen everything.
SELECT books_checked_to() AS xact_id;

-- books_checked: the books balanced up to this transaction.
SELECT books_checked(%(seen_to)s);
