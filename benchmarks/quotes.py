"""How good quotes are: real prompts to the local stack's real model, each quoted first and compared with what it used.

The prompts are paragraphs of this project's own documentation and code, with questions about them. A quarter of the
requests come before the first rollup, and so before the first forecast.

    PYTHONPATH=layers/shared python -m benchmarks.quotes [--prompts 500]
"""

import argparse
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psycopg

from benchmarks.report import listed, surroundings
from benchmarks.waiting import Caller
from local.errors import LocalError
from local.processes import stopping_on_signals
from local.stack import Stack

ROOT: Final = Path(__file__).parents[1]
USER: Final = "quoted"
_QUESTIONS: Final = (
    "What is this about? Answer in one sentence.",
    "Name the three most important words in this.",
    "Continue this text.",
    "Traduis en français.",
    "Is this code or prose?",
)
_ROUNDS: Final = 4
_ENDED: Final = {"completed", "failed", "cancelled", "expired"}
_WAIT_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Compared:
    """A request: what was quoted, and what it came to."""

    bound: int
    bound_amount: Decimal
    forecast: int | None
    actual: int
    actual_amount: Decimal


def prompts(count: int) -> list[dict[str, Any]]:
    """Bodies of POST /generate, always the same."""
    rng = random.Random(13)
    files = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("layers/shared/sluice/**/*.py")])
    texts = [part.strip() for path in files for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))]
    chosen = rng.sample([text for text in texts if 20 < len(text) < 1000], count)
    return [
        {"prompt": f"{text}\n\n{rng.choice(_QUESTIONS)}", "parameters": {"max_tokens": rng.choice((8, 16, 32))}}
        for text in chosen
    ]


def compare(stack: Stack, bodies: Sequence[dict[str, Any]]) -> list[Compared]:
    """Quote and ask, in rounds with a rollup after each."""
    caller = Caller(stack.info.api_url, stack.admin("key.create", user_id=USER)["api_key"])
    done = []
    size = -(-len(bodies) // _ROUNDS)
    for begin in range(0, len(bodies), size):
        asked = []
        for body in bodies[begin : begin + size]:
            quoted = caller.call("POST", "/quote", body)
            most = quoted["bound"]["cost"]["amount"]
            asked.append((quoted, caller.call("POST", "/generate", body | {"max_cost": most})["request_id"]))
        for quoted, request_id in asked:
            ended = _ended(caller, request_id)
            forecast = quoted["forecast"]
            done.append(
                Compared(
                    quoted["bound"]["total_tokens"],
                    Decimal(quoted["bound"]["cost"]["amount"]),
                    None if forecast is None else forecast["total_tokens"],
                    ended["usage"]["total_tokens"],
                    Decimal(ended["cost"]["amount"]),
                )
            )
        print(f"benchmarks: {len(done)} of {len(bodies)} prompts", file=sys.stderr)
        stack.admin("rollup.run", tasks=["stats"])
    return done


def _ended(caller: Caller, request_id: str) -> Any:
    deadline = time.monotonic() + _WAIT_SECONDS
    while (answer := caller.call("GET", f"/status/{request_id}?wait=20"))["status"] not in _ENDED:
        if time.monotonic() > deadline:
            raise LocalError(f"the request {request_id} does not end: {answer['queue']}")
    if answer["status"] != "completed":
        raise LocalError(f"the request {request_id} is {answer['status']}: {answer['error']}")
    return answer


def summary(done: Sequence[Compared]) -> dict[str, str]:
    """What came of it, in words."""
    known = [each for each in done if each.forecast is not None]
    used = sum(each.actual for each in known)
    error = sum(abs(each.actual - (each.forecast or 0)) for each in known)
    bias = sum((each.forecast or 0) - each.actual for each in known)
    return {
        "prompts": str(len(done)),
        "above the bound": f"{sum(each.actual > each.bound for each in done)} in tokens, "
        f"{sum(each.actual_amount > each.bound_amount for each in done)} in money",
        "used": f"{sum(each.actual for each in done) / sum(each.bound for each in done):.0%} of the bounds",
        "with a forecast": str(len(known)),
        "error of the forecast": f"{error / used:.1%} of the tokens used, bias {bias / used:+.1%}" if used else "none",
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("benchmarks.quotes", description="Compare quotes with what requests use.")
    parser.add_argument("--prompts", type=int, default=500, help="how many (500)")
    options = parser.parse_args(arguments)
    print("benchmarks: starting a stack", file=sys.stderr)
    with TemporaryDirectory(prefix="sluice-benchmarks-") as folder:
        stack = Stack(Path(folder) / "stack", durable=False)
        try:
            with stopping_on_signals(), stack:
                unlimited = {"max_requests": None, "max_tokens": None}
                limits = dict.fromkeys(("minute", "daily", "monthly"), unlimited)
                stack.admin("tier.set", tier=USER, limits=limits, max_unfinished=1000, dispatch_window=20)
                stack.admin("user.create", user_id=USER, tier=USER)
                found = summary(compare(stack, prompts(options.prompts)))
                with psycopg.connect(stack.info.database_url) as database:
                    (postgres,) = database.execute("SELECT split_part(version(), ' on ', 1)").fetchone() or ("",)
        except LocalError as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return 1
        finally:
            stack.destroy()
    print(listed(surroundings(postgres) | {"model": "SmolLM2-135M-Instruct"} | found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
