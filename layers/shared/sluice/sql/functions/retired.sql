-- Entry points that no supported version of the code calls any more, each with the version that stopped calling it.
-- This file is applied before all others. The rule is in CONTRIBUTING.md, "Changing an entry point". For example:
--
--   DROP FUNCTION IF EXISTS request_peek(bytea, uuid);  -- 0.3

-- Functions that only other functions called, and that have other parameters now:
-- squawk-ignore ban-drop-function
DROP FUNCTION IF EXISTS request_id_after(text);  -- 0.2
-- squawk-ignore ban-drop-function
DROP FUNCTION IF EXISTS usage_priced(text, date, date, text);  -- 0.2
-- No entry point: only request_admit calls it, and both are made again in this transaction. Its result has changed,
-- which CREATE OR REPLACE cannot do.
-- squawk-ignore ban-drop-function
DROP FUNCTION IF EXISTS idempotency_find(text, jsonb);
-- The same function with one parameter more, which has a default, takes its place in the same transaction: calls that
-- do not give that parameter go on working.
-- squawk-ignore ban-drop-function
DROP FUNCTION IF EXISTS request_list(text, text, text, timestamptz, timestamptz, uuid, integer);
-- No entry points either; their callers are made again in this transaction.
-- squawk-ignore ban-drop-function
DROP FUNCTION IF EXISTS
    claim_take(uuid[], timestamptz, timestamptz), outcomes_settle(jsonb, text), overdue_outcomes(integer, timestamptz),
    outcomes_current(outcome[]), outcomes_resolve(outcome[], integer[], timestamptz),
    settlements_end(settlement[], text, timestamptz), settlements_requeue(settlement[], text, timestamptz),
    outcomes_late(outcome[], integer[], text), unfinished_count(text, integer), quota_store(quotas[]),
    request_cost(requests), request_summaries(uuid[]), history_find(text, jsonb), tokens_needed(jsonb, models),
    request_id_after(quota_plans), price_on(text, text, text, date),
    tokens_amount(bigint, numeric, bigint, numeric), tokens_cost(text, text, date, bigint, bigint),
    request_cost(text, text, date, integer, integer), usage_text(numeric, numeric, numeric), prompt_find(uuid),
    metadata_find(uuid), file_find(uuid),
    budget_applies(budgets, uuid, text),
    budget_check(text, uuid, text, timestamptz, integer, integer),
    request_admit(quota_plans, uuid, text, jsonb, boolean),
    class_prices_on(text, text, date, bigint, bigint),
    class_usage_on(text, text, date, bigint, bigint, bigint, bigint),
    tokens_amount(bigint, bigint, bigint, bigint, class_prices),
    tokens_cost(text, text, date, bigint, bigint, bigint, bigint),
    request_cost(text, text, date, integer, integer, integer, integer),
    usage_text(numeric, numeric, numeric, numeric, numeric),
    lifetime_resolve(timestamptz, jsonb),
    answer_again(uuid, text, uuid, text, text, timestamptz, cache_look_up),
    request_cost(text, text, date, integer, integer, integer, integer, integer),
    charges_cost(text, jsonb, date), attempts_json(uuid, text),
    budget_check(text, uuid, text[], timestamptz, integer, integer, integer),
    quote_make(quota_plans, models, text[], integer, integer, integer, timestamptz, cache_look_up),
    quote_wait(quota_plans, boolean, timestamptz), dispatch_waiting(text[], integer, uuid[]),
    statement_rows(text, date, text);
