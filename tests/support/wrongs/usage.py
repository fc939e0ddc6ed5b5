"""Errors in usage and statements, to be injected one at a time."""

from tests.support.wrongs.wrong import Wrong, wrong

USAGE: dict[str, Wrong] = {
    # 4. usage by model and day = the sum
    "a token too much in the usage of a model": wrong(
        "UPDATE usage_by_model SET prompt_tokens = prompt_tokens + 1"
        " WHERE user_id = 'carol' AND period = 'daily' AND period_start = '2031-02-01'",
        ("usage_is_the_sum", "carol", "2031-02-01 nova-micro"),
        ("usage_adds_up", "carol", "daily 2031-02-01", "monthly 2031-02-01 nova-micro"),
        seen=(("usage_adds_up", "carol", "daily 2031-02-01", "monthly 2031-02-01 nova-micro"),),
    ),
    "a token moved from prompts to answers": wrong(
        "UPDATE usage_by_model SET prompt_tokens = prompt_tokens + 1, completion_tokens = completion_tokens - 1"
        " WHERE user_id = 'alice' AND period = 'daily' AND period_start = '2031-01-30' AND model_id = 'small'",
        ("usage_is_the_sum", "alice", "2031-01-30 small"),
        ("usage_adds_up", "alice", "monthly 2031-01-01 small"),
        unseen=True,
    ),
    "a request too much in all of a day's and a month's usage alike": wrong(
        "WITH a AS (UPDATE usage SET requests_count = requests_count + 1 WHERE user_id = 'carol' AND period_start = '2031-02-01')"
        " UPDATE usage_by_model SET requests_count = requests_count + 1 WHERE user_id = 'carol' AND period_start = '2031-02-01'",
        ("usage_is_the_sum", "carol", "2031-02-01 nova-micro"),
        unseen=True,
    ),
    "the usage of a day gone": wrong(
        "WITH a AS (DELETE FROM usage_by_model WHERE user_id = 'carol' AND period_start = '2031-02-01')"
        " DELETE FROM usage WHERE user_id = 'carol' AND period_start = '2031-02-01'",
        ("usage_is_the_sum", "carol", "2031-02-01 nova-micro"),
        unseen=True,
    ),
    "usage of nothing": wrong(
        "INSERT INTO usage_by_model (user_id, model_id, period, period_start, requests_count)"
        " VALUES ('dora', 'small', 'daily', '2031-02-02', 1)",
        ("usage_is_the_sum", "dora", "2031-02-02 small"),
        ("usage_adds_up", "dora", "daily 2031-02-02", "monthly 2031-02-01 small"),
    ),
    "a rollup that left something out": wrong(
        "UPDATE rollup_watermarks SET xact_id = (SELECT max(xact_id) FROM audit_log WHERE request_id = %(today)s) + 1"
        " WHERE task = 'usage'",
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
        ("usage_is_the_sum", "erin", "2031-02-02 nova-micro"),
    ),
    "a rollup that counted something twice": wrong(
        "UPDATE rollup_watermarks SET xact_id = (SELECT max(xact_id) FROM audit_log WHERE request_id = %(february)s)"
        " WHERE task = 'usage'",
        ("usage_is_the_sum", "carol", "2031-02-01 nova-micro"),
        unseen=True,
    ),
    # 5. usage = the sum of its parts
    "a token too much in the usage of a day": wrong(
        "UPDATE usage SET tokens_used = tokens_used + 1 WHERE user_id = 'carol' AND period = 'daily' AND period_start = '2031-02-01'",
        ("usage_adds_up", "carol", "daily 2031-02-01"),
    ),
    "a request too few in the usage of a month": wrong(
        "UPDATE usage SET requests_count = requests_count - 1 WHERE user_id = 'carol' AND period = 'monthly' AND period_start = '2031-02-01'",
        ("usage_adds_up", "carol", "monthly 2031-02-01"),
    ),
    "a token too much in the usage of a model in a month that is over": wrong(
        "UPDATE usage_by_model SET completion_tokens = completion_tokens + 1"
        " WHERE user_id = 'bob' AND period = 'monthly' AND model_id = 'small'",
        ("usage_adds_up", "bob", "monthly 2031-01-01", "monthly 2031-01-01 small"),
        unseen=True,
    ),
    # 9. usage by key is usage, usage by tag that of the requests with the tag
    "another key's token": wrong(
        "UPDATE usage_by_attribute SET prompt_tokens = prompt_tokens + 1 WHERE user_id = 'carol' AND day = '2031-01-30'",
        ("keys_add_up", "carol", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "usage by key gone": wrong(
        "DELETE FROM usage_by_attribute WHERE attribute = 'key' AND user_id = 'erin'",
        ("keys_add_up", "erin", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "a tag's token": wrong(
        "UPDATE usage_by_attribute SET prompt_tokens = prompt_tokens - 1 WHERE attribute = 'tag:project'",
        ("tags_add_up", "erin", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "usage by tag gone": wrong(
        "DELETE FROM usage_by_attribute WHERE attribute = 'tag:project'",
        ("tags_add_up", "erin", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    # 10. statements are those that were audited, and what they billed adds up
    "another total": wrong(
        "UPDATE statements SET document = document || '{\"total\": \"0.00001\"}' WHERE user_id = 'alice'",
        ("statement_is_kept", "alice", "2031-01"),
    ),
    "a statement gone": wrong(
        "DELETE FROM statements WHERE user_id = 'alice'", ("statement_is_kept", "alice", "2031-01")
    ),
    "a statement that nobody gave out": wrong(
        "INSERT INTO statements (user_id, month, document, digest, closed_at)"
        " SELECT 'bob', month, document, digest, closed_at FROM statements WHERE user_id = 'dora'",
        ("statement_is_kept", "bob", "2031-01"),
    ),
    "a token that was billed and is not in the statement": wrong(
        "UPDATE billed_usage SET prompt_tokens = prompt_tokens + 1 WHERE user_id = 'dora'",
        ("statement_is_kept", "dora", "2031-01"),
    ),
}
