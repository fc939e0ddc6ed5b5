-- request_create: accept one request or say why not; one commit.
SELECT outcome, request_id, user_id, model_id, send, detail
FROM request_create(
    %(key_hash)s, %(prompt)s, %(model)s, %(parameters)s, %(metadata)s, %(idempotency_key)s, %(body_hash)s,
    %(ttl_seconds)s, %(ends_at)s, %(begins_at)s, %(longest_seconds)s, %(max_attempts)s
);

-- request_cancel: cancel one request of the caller, now or when its worker answers.
SELECT outcome, status, user_id, send FROM request_cancel(%(key_hash)s, %(request_id)s);

-- request_undispatch: these messages were not sent, the sweep is to send them.
SELECT request_undispatch(%(ids)s);

-- request_claim: take what is due of a batch, with all that its models need.
SELECT request_id, attempt, user_id, model_id, prompt, parameters,
       backend, backend_model, endpoint, secret_arn, timeout_seconds
FROM request_claim(%(ids)s, %(lease_seconds)s);

-- request_settle: end or requeue what has finished; says what to send next.
SELECT kind, request_id, user_id, status, delay_seconds FROM request_settle(%(outcomes)s, %(actor)s);

-- request_show: one request of the caller, with its place in the queue, its result and its cost.
SELECT outcome, request_id, model_id, status, result, result_type, error_code, error_message,
       estimated_tokens, reserved_tokens, prompt_tokens, completion_tokens, total_tokens,
       created_at, started_at, completed_at, processing_time_ms, metadata, cost, queue
FROM request_show(%(key_hash)s, %(request_id)s);

-- request_history: the caller's requests, newest first, older than a given one.
SELECT outcome, request_id, prompt, model_id, status, error_code, error_message,
       prompt_tokens, completion_tokens, total_tokens, created_at, started_at, completed_at, processing_time_ms
FROM request_history(%(key_hash)s, %(before)s, %(at_most)s);

-- model_offer: the models that a client may name.
SELECT outcome, model_id, is_default, max_tokens_default, max_tokens_limit FROM model_offer(%(key_hash)s);

-- usage_read: the caller's limits, and usage by day, model and token class with the prices of each day.
SELECT outcome, plan, usage FROM usage_read(%(key_hash)s, %(first_day)s, %(last_day)s);

-- health: does the database answer?
SELECT 1 AS answer;
