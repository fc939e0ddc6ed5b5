"""Errors in plans, counters and budgets, to be injected one at a time."""

from tests.support.wrongs.wrong import Wrong, wrong

COUNTERS: dict[str, Wrong] = {
    # 0. a plan, three counters, terms; limits as they were set
    "a plan gone": wrong(
        "DELETE FROM quota_plans WHERE user_id = 'dora'",
        ("plan_is_whole", "dora", None),
    ),
    "a counter gone": wrong(
        "DELETE FROM quotas WHERE user_id = 'dora' AND quota_period = 'minute'",
        ("plan_is_whole", "dora", None),
    ),
    "terms of billing gone": wrong(
        "DELETE FROM billing_terms WHERE user_id = 'carol'",
        ("plan_is_whole", "carol", None),
    ),
    "more unfinished requests than the tier allows": wrong(
        "UPDATE quota_plans SET max_unfinished = max_unfinished + 1 WHERE user_id = 'bob'",
        ("plan_is_whole", "bob", None),
    ),
    "a limit raised past the audit log": wrong(
        "UPDATE quotas SET max_tokens = max_tokens + 1 WHERE user_id = 'bob' AND quota_period = 'monthly'",
        ("plan_is_whole", "bob", "monthly"),
    ),
    "a limit of one's own that nobody has set": wrong(
        "UPDATE quotas SET max_tokens = NULL, is_override = true WHERE user_id = 'bob' AND quota_period = 'daily'",
        ("plan_is_whole", "bob", "daily"),
    ),
    "more unfinished requests of one's own than anybody has set": wrong(
        "UPDATE quota_plans SET max_unfinished = 1000000, is_override = true WHERE user_id = 'bob'",
        ("plan_is_whole", "bob", None),
    ),
    "a minute longer than others": wrong(
        "UPDATE quotas SET reset_at = reset_at + interval '1 minute' WHERE user_id = 'bob' AND quota_period = 'minute'",
        ("plan_is_whole", "bob", "minute"),
    ),
    # 1. used + reserved <= limit
    "a limit that was always so low, as the audit log has it": wrong(
        "WITH a AS (UPDATE quotas SET max_requests = 1, is_override = true WHERE user_id = 'alice' AND quota_period = 'daily')"
        " INSERT INTO audit_log (actor, action, user_id, before, after)"
        " SELECT 'admin', 'quota.changed', 'alice', l, l"
        " FROM (SELECT jsonb_set(quota_limits('alice'), '{limits,daily,max_requests}', '1') AS l) AS limits",
        ("quota_within_limit", "alice", "daily"),
    ),
    "a request limit lowered past the audit log": wrong(
        "UPDATE quotas SET max_requests = 1 WHERE user_id = 'alice' AND quota_period = 'daily'",
        ("quota_within_limit", "alice", "daily"),
        ("plan_is_whole", "alice", "daily"),
    ),
    "a token limit lowered past the audit log": wrong(
        "UPDATE quotas SET max_tokens = tokens_used + tokens_reserved - 1 WHERE user_id = 'bob' AND quota_period = 'monthly'",
        ("quota_within_limit", "bob", "monthly"),
        ("plan_is_whole", "bob", "monthly"),
    ),
    "a limit lowered in a period that is over": wrong(
        "UPDATE quotas SET max_requests = 0 WHERE user_id = 'dora' AND quota_period = 'daily'",
        ("quota_within_limit", "dora", "daily"),
        ("plan_is_whole", "dora", "daily"),
        seen=(("plan_is_whole", "dora", "daily"),),
    ),
    # 2. reserved = the sum
    "a token too much reserved": wrong(
        "UPDATE quotas SET tokens_reserved = tokens_reserved + 1 WHERE user_id = 'alice' AND quota_period = 'minute'",
        ("quota_reserved_is_the_sum", "alice", "minute"),
    ),
    "a token too few reserved": wrong(
        "UPDATE quotas SET tokens_reserved = tokens_reserved - 1 WHERE user_id = 'bob' AND quota_period = 'monthly'",
        ("quota_reserved_is_the_sum", "bob", "monthly"),
    ),
    "a token reserved for nobody in a period that is over": wrong(
        "UPDATE quotas SET tokens_reserved = 1 WHERE user_id = 'dora' AND quota_period = 'daily'",
        ("quota_reserved_is_the_sum", "dora", "daily"),
        unseen=True,
    ),
    # 3. used = the sum
    "a request too much counted": wrong(
        "UPDATE quotas SET requests_used = requests_used + 1 WHERE user_id = 'carol' AND quota_period = 'daily'",
        ("quota_used_is_the_sum", "carol", "daily"),
    ),
    "a request too few counted": wrong(
        "UPDATE quotas SET requests_used = requests_used - 1 WHERE user_id = 'bob' AND quota_period = 'minute'",
        ("quota_used_is_the_sum", "bob", "minute"),
    ),
    "a token too few counted": wrong(
        "UPDATE quotas SET tokens_used = tokens_used - 1 WHERE user_id = 'carol' AND quota_period = 'monthly'",
        ("quota_used_is_the_sum", "carol", "monthly"),
    ),
    "a token too much counted in a period that is over": wrong(
        "UPDATE quotas SET tokens_used = tokens_used + 1 WHERE user_id = 'dora' AND quota_period = 'minute'",
        ("quota_used_is_the_sum", "dora", "minute"),
        unseen=True,
    ),
    # 8. budgets: used and reserved are the sums, within the limit
    "an amount that nobody spent": wrong(
        "UPDATE budgets SET amount_used = amount_used + 0.0000001", ("budget_is_the_sum", "erin", "monthly budget")
    ),
    "an amount reserved twice": wrong(
        "UPDATE budgets SET amount_reserved = amount_reserved + 0.0000001",
        ("budget_is_the_sum", "erin", "monthly budget"),
    ),
    "budgets that submit does not look at": wrong(
        "UPDATE quota_plans SET has_budgets = false WHERE user_id = 'erin'", ("budget_is_the_sum", "erin", None)
    ),
    "a budget lowered past the audit log": wrong(
        "UPDATE budgets SET max_amount = amount_used / 2", ("budget_within_limit", "erin", "monthly budget")
    ),
}
