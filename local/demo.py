"""Steps of `run` and `demo` on a running stack: send a prompt through the API, then check its usage."""

import shlex
import textwrap
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from local import api
from local.errors import LocalError
from local.processes import wait_until
from local.report import Report, say
from local.stack import Stack, StackInfo

PROMPT = "Explain in two sentences what a water sluice is for."
MAX_TOKENS = 96

_ROLLUP_SECONDS = 15.0

_USAGE = """
SELECT user_id, period, period_start, period_end, requests_count, tokens_used
  FROM usage
 WHERE user_id = %s AND period = 'monthly'
 ORDER BY period_start DESC
 LIMIT 1
"""


@dataclass(frozen=True)
class MonthlyUsage:
    """The counts in a user's monthly usage row."""

    requests: int = 0
    tokens: int = 0


def send_prompt(info: StackInfo, report: Report) -> dict[str, Any]:
    """Send the demo prompt through the API, print the result and return the answer.

    Raises:
        LocalError: the request did not complete.
    """
    report(f"Asking: {PROMPT}")
    answer = api.generate(
        info.api_url,
        info.api_key,
        PROMPT,
        max_tokens=MAX_TOKENS,
        on_accepted=lambda request: report(f"Accepted as {request}."),
    )
    if answer["status"] != "completed":
        raise LocalError(
            f"The demo request ended as {answer['status']}: {answer.get('error')}. Logs: {info.logs}/functions"
        )
    usage = answer["usage"]
    say("")
    say(textwrap.indent(textwrap.fill(str(answer["result"]).strip(), 96), "    "))
    say("")
    report(
        f"{answer['model']}: {usage['prompt_tokens']} tokens of prompt, {usage['completion_tokens']} of answer, "
        f"{answer['processing_time_ms'] / 1000:.1f} s of processing."
    )
    return answer


def show_next_steps(info: StackInfo) -> None:
    """Print commands to paste into another terminal."""
    key = shlex.quote(f"x-api-key: {info.api_key}")
    say(f"""
Try it in another terminal:

  curl -s {info.api_url}/generate \\
    -H {key} -H 'content-type: application/json' \\
    -d '{{"prompt": "Name three rivers.", "parameters": {{"max_tokens": 64}}}}'

  curl -s {info.api_url}/status/REQUEST_ID -H {key}

Addresses and keys: {info.logs.removesuffix("logs")}stack.json
Logs:               {info.logs}/ (each function's in functions/)
""")


def monthly_usage(info: StackInfo) -> tuple[dict[str, Any] | None, MonthlyUsage]:
    """Return the demo user's latest monthly usage row, if there is one, and its counts."""
    with psycopg.connect(info.database_url, row_factory=dict_row) as connection:
        row = connection.execute(_USAGE, [info.user_id]).fetchone()
    if row is None:
        return None, MonthlyUsage()
    return row, MonthlyUsage(int(row["requests_count"]), int(row["tokens_used"]))


def check_usage(stack: Stack, before: MonthlyUsage, answer: dict[str, Any], report: Report) -> None:
    """Run the usage rollup, print the usage row and check that it includes the demo request.

    Raises:
        LocalError: it does not, or `verify` finds a problem.
    """
    tokens = int(answer["usage"]["total_tokens"])

    def counted() -> bool:
        stack.admin("rollup.run", tasks=["usage", "stats"])
        _, now = monthly_usage(stack.info)
        # The row may count more than our request: others may use the stack too.
        return now.requests - before.requests >= 1 and now.tokens - before.tokens >= tokens

    # A rollup skips rows newer than the oldest running transaction (of a scheduled rollup, for example): repeat it.
    complete = wait_until(counted, _ROLLUP_SECONDS)
    row, after = monthly_usage(stack.info)
    if row is None:
        raise LocalError("The rollup ran, and the demo user has no usage row.")
    report("Ran the usage rollup. The row of `usage`:")
    say("")
    for column, value in row.items():
        say(f"    {column:<16} {value}")
    say("")
    if not complete:
        raise LocalError(
            f"The usage row grew by {after.requests - before.requests} requests "
            f"and {after.tokens - before.tokens} tokens, and the demo request alone had {tokens} tokens."
        )
    report(f"It includes the request and its {tokens} tokens.")
    verify(stack, report)


def verify(stack: Stack, report: Report) -> None:
    """Run the full verification and report what was checked.

    Raises:
        LocalError: the books do not balance.
    """
    stack.admin("rollup.run", tasks=["audit"])
    found = stack.admin("verify", full=True)
    if not found["balanced"]:
        raise LocalError(f"The books do not balance: {found['violations'] or found['audit']['problem']}")
    checked = ", ".join(f"{count} {what}" for what, count in found["checked"].items())
    report(f"The books balance ({checked}); {found['audit']['rows']} sealed rows of the audit log are unchanged.")
