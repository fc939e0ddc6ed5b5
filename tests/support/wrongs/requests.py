"""Errors in requests, what is in flight and results, to be injected one at a time."""

from tests.support.books import PERIODS
from tests.support.wrongs.wrong import Wrong, wrong

ANSWERED = "request_id = %(answered)s"
COPY_AUDIT = (
    "INSERT INTO audit_log (audit_id, at, xact_id, actor, action, user_id, key_id, request_id, before, after)"
    " SELECT uuidv7(), at, {xact_id}, actor, action, user_id, key_id, request_id, before, after FROM audit_log"
    " WHERE request_id = %(answered)s AND action = '{action}'"
)

REQUESTS: dict[str, Wrong] = {
    # 6. accepted once, settled once, as audited
    "no audit row of a settlement": wrong(
        f"DELETE FROM audit_log WHERE {ANSWERED} AND action = 'request.completed'",
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "no audit row of an acceptance": wrong(
        "DELETE FROM audit_log WHERE request_id = %(expired)s AND action = 'request.queued'",
        ("request_settled_once", "alice", "expired"),
        unseen=True,
    ),
    "no audit row of a settlement of today": wrong(
        "DELETE FROM audit_log WHERE request_id = %(today)s AND action = 'request.completed'",
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
    ),
    "a second audit row of a settlement": wrong(
        COPY_AUDIT.format(xact_id="xact_id", action="request.completed"),
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "a second settlement": wrong(
        COPY_AUDIT.format(xact_id="pg_current_xact_id()::text::bigint", action="request.completed"),
        ("request_settled_once", "alice", "answered"),
        ("usage_is_the_sum", "alice", "2031-01-30 nova-micro"),
    ),
    "a second acceptance": wrong(
        COPY_AUDIT.format(xact_id="pg_current_xact_id()::text::bigint", action="request.queued"),
        ("request_settled_once", "alice", "answered"),
        ("usage_is_the_sum", "alice", "2031-01-30 nova-micro"),
    ),
    "a settlement of another kind, audited for an unfinished request": wrong(
        "UPDATE audit_log SET action = 'request.failed' WHERE request_id = %(running)s AND action = 'request.processing'",
        ("request_settled_once", "bob", "running"),
    ),
    "other tokens in the audit row": wrong(
        f"UPDATE audit_log SET after = after || '{{\"prompt_tokens\": 8}}' WHERE {ANSWERED} AND action = 'request.completed'",
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "another status in the audit row": wrong(
        "UPDATE audit_log SET after = after || '{\"status\": \"cancelled\"}' WHERE request_id = %(rejected)s AND action = 'request.failed'",
        ("request_settled_once", "carol", "rejected"),
    ),
    "another status of the request": wrong(
        "UPDATE requests SET status = 'cancelled', error_code = 'x' WHERE request_id = %(refused)s",
        ("request_settled_once", "bob", "refused"),
        unseen=True,
    ),
    "another model of the request": wrong(
        "UPDATE requests SET model_id = 'small' WHERE request_id = %(expired)s",
        ("request_settled_once", "alice", "expired"),
        ("usage_is_the_sum", "alice", "2031-01-30 nova-micro", "2031-01-30 small"),
        unseen=True,
    ),
    "another key of the request": wrong(
        f"UPDATE requests SET key_id = NULL WHERE {ANSWERED}",
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "another reservation of the request": wrong(
        f"UPDATE requests SET reserved_tokens = reserved_tokens - 1 WHERE {ANSWERED}",
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "a token of the request moved from the prompt to the answer": wrong(
        "UPDATE requests SET prompt_tokens = prompt_tokens - 1, completion_tokens = completion_tokens + 1 WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
    ),
    "other tokens of the request": wrong(
        f"UPDATE requests SET prompt_tokens = 8, total_tokens = 11 WHERE {ANSWERED}",
        ("request_settled_once", "alice", "answered"),
        ("usage_is_the_sum", "alice", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "other tokens of a request of today": wrong(
        "UPDATE requests SET prompt_tokens = 8, total_tokens = 11 WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
        ("quota_used_is_the_sum", "alice", *PERIODS),
    ),
    "another user of the request": wrong(
        "UPDATE requests SET user_id = 'dora' WHERE request_id = %(refused)s",
        ("request_settled_once", "dora", "refused"),
        ("usage_is_the_sum", "bob", "2031-01-30 nova-micro"),
        ("usage_is_the_sum", "dora", "2031-01-30 nova-micro"),
        ("quota_used_is_the_sum", "dora", *PERIODS),
        unseen=True,
    ),
    "a request gone": wrong(
        "DELETE FROM requests WHERE request_id = %(refused)s",
        ("request_settled_once", "bob", "refused"),
        ("usage_is_the_sum", "bob", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "a request of today gone": wrong(
        "DELETE FROM requests WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
        ("result_is_kept", None, "today"),
        ("quota_used_is_the_sum", "alice", *PERIODS),
        seen=(("result_is_kept", None, "today"), ("quota_used_is_the_sum", "alice", *PERIODS)),
    ),
    "a request that nobody accepted": wrong(
        "INSERT INTO requests (request_id, user_id, model_id, status, created_at, updated_at, completed_at, error_code,"
        " estimated_tokens, reserved_tokens) SELECT %(unaccepted)s, 'alice', 'small', 'failed', t, t, t, 'x', 1, 1"
        " FROM uuid_extract_timestamp(%(unaccepted)s) AS t",
        ("request_settled_once", "alice", "unaccepted"),
        ("usage_is_the_sum", "alice", "2031-01-30 small"),
        unseen=True,
    ),
    # 7. an inflight row for every unfinished request, and no other
    "a request forgotten": wrong(
        "DELETE FROM inflight WHERE request_id = %(forgotten)s",
        ("inflight_is_what_is_unfinished", "bob", "forgotten"),
        unseen=True,
    ),
    "a request of today forgotten": wrong(
        "DELETE FROM inflight WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "alice", "waiting"),
        ("quota_reserved_is_the_sum", "alice", *PERIODS),
    ),
    "a finished request in flight": wrong(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (%(answered)s, 'alice', 3, now())",
        ("inflight_is_what_is_unfinished", "alice", "answered"),
    ),
    "nothing in flight": wrong(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (%(unaccepted)s, 'alice', 3, now())",
        ("inflight_is_what_is_unfinished", "alice", "unaccepted"),
    ),
    "another attempt in flight": wrong(
        "UPDATE inflight SET attempt = 2 WHERE request_id = %(running)s",
        ("inflight_is_what_is_unfinished", "bob", "running"),
    ),
    "another state in flight": wrong(
        "UPDATE inflight SET status = 'queued', lease_until = NULL WHERE request_id = %(forgotten)s",
        ("inflight_is_what_is_unfinished", "bob", "forgotten"),
    ),
    "another user in flight": wrong(
        "UPDATE inflight SET user_id = 'dora' WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "dora", "waiting"),
    ),
    "another attempt of the request": wrong(
        "UPDATE requests SET attempts = 2 WHERE request_id = %(running)s",
        ("inflight_is_what_is_unfinished", "bob", "running"),
    ),
    "another state of the request": wrong(
        "UPDATE requests SET status = 'processing' WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "alice", "waiting"),
    ),
    "a request ended past the door": wrong(
        "UPDATE requests SET status = 'cancelled', completed_at = created_at WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "alice", "waiting"),
        ("request_settled_once", "alice", "waiting"),
    ),
    "a prompt gone": wrong(
        "DELETE FROM prompts WHERE request_id = %(forgotten)s",
        ("inflight_is_what_is_unfinished", "bob", "forgotten"),
    ),
    "webhooks that nobody looks for": wrong(
        "INSERT INTO webhook_endpoints (user_id, url, name, event_types, secret, created_at, updated_at)"
        " VALUES ('erin', 'https://example.com', 'x', '{}', 'whsec_x', clock_now(), clock_now())",
        ("plan_is_whole", "erin", None),
    ),
    # 10a. a request that asks for others is unfinished, and so is whom one follows
    "a question that nobody asks any more": wrong(
        "INSERT INTO answer_cache (user_id, fingerprint, cache_scope, model_id, leader_id)"
        " SELECT user_id, sha256('x'), cache_scope_of_all(), model_id, request_id FROM requests"
        " WHERE request_id = %(today)s",
        ("inflight_is_what_is_unfinished", "alice", "today"),
    ),
    "a request that waits for nobody": wrong(
        "UPDATE inflight SET follows = %(today)s, dispatched_at = NULL WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "alice", "waiting"),
    ),
    # 10b. what is charged by model adds up, and is in the attempts
    "a charge without a call": wrong(
        "UPDATE requests SET charges = jsonb_build_array(jsonb_build_object('model_id', model_id,"
        " 'prompt_tokens', prompt_tokens, 'completion_tokens', completion_tokens, 'cached_tokens', cached_tokens,"
        " 'reasoning_tokens', reasoning_tokens)) WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
    ),
    "a charge that is not written down": wrong(
        "INSERT INTO attempts (request_id, attempt, call, model_id, backend, prompt_tokens, completion_tokens,"
        " is_charged, begun_at, ended_at) VALUES (%(today)s, 1, 1, 'small', 'bedrock', 1, 1, true, now(), now())",
        ("request_settled_once", "alice", "today"),
    ),
    "an object of nobody's input": wrong(
        "INSERT INTO objects (object_id, object_class, user_id, request_id, key, mime_type, byte_length, sha256)"
        " VALUES (%(unaccepted)s, 'inputs', 'alice', %(today)s, 'inputs/x', 'x', 1, sha256(''))",
        ("object_is_kept", "alice", "today"),
    ),
    # 11. every completed request has its result
    "a result gone": wrong(
        f"DELETE FROM results WHERE {ANSWERED}", ("result_is_kept", "alice", "answered"), unseen=True
    ),
    "a result of today gone": wrong(
        "DELETE FROM results WHERE request_id = %(today)s", ("result_is_kept", "alice", "today")
    ),
    "a result of another request": wrong(
        f"UPDATE results SET request_id = %(once)s WHERE {ANSWERED}",
        ("result_is_kept", "alice", "answered"),
        ("result_is_kept", "dora", "once"),
        seen=(("result_is_kept", "dora", "once"),),
    ),
    "a second result": wrong(
        "INSERT INTO results (result_id, request_id, output) VALUES (%(unaccepted)s, %(today)s, '{\"items\": []}')",
        ("result_is_kept", "alice", "today"),
    ),
    "a result of a request that failed": wrong(
        "INSERT INTO results (result_id, request_id, output) VALUES (%(unaccepted)s, %(rejected)s, '{\"items\": []}')",
        ("result_is_kept", "carol", "rejected"),
    ),
    "another result of the request": wrong(
        "UPDATE requests SET result_id = uuidv7() WHERE request_id = %(today)s",
        ("result_is_kept", "alice", "today"),
    ),
    "an answer of another user in the cache": wrong(
        "INSERT INTO answer_cache (user_id, fingerprint, cache_scope, model_id, request_id, result_id, answered_at)"
        " SELECT 'bob', sha256('x'), cache_scope_of_all(), model_id, request_id, result_id, completed_at"
        " FROM requests WHERE request_id = %(today)s",
        ("result_is_kept", "bob", "today"),
    ),
    # 12. batches count their lines
    "a batch of a line that is not there": wrong(
        "INSERT INTO batches (user_id, key_id, endpoint, completion_window, input_file_id, input_object_id, status,"
        " created_at, expires_at, total, next_at)"
        " SELECT 'alice', key_id, '/v1/responses', '24h', uuidv7(), uuidv7(), 'in_progress', now(), now(), 1, now()"
        " FROM api_keys WHERE user_id = 'alice' LIMIT 1",
        ("batch_adds_up", "alice", None),
    ),
    # 13. rows are as their tables declare them, though PostgreSQL does not enforce it
    "a request that was started before it was accepted": wrong(
        f"UPDATE requests SET started_at = created_at - interval '1 day' WHERE {ANSWERED}",
        ("rows_as_declared", "alice", "answered"),
        unseen=True,
    ),
    "more lost attempts than failed ones": wrong(
        "UPDATE inflight SET lost_attempts = failed_attempts + 1 WHERE request_id = %(waiting)s",
        ("rows_as_declared", "alice", "waiting"),
    ),
}
