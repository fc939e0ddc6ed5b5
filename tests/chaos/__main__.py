"""The command: ``make chaos``, or ``python -m tests.chaos --seed 7``; `--help` lists the options."""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from local.processes import stopping_on_signals
from local.report import timed_report
from tests.chaos.campaign import Campaign, Report, Size
from tests.chaos.plan import KINDS

_SHOWN = 20


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if no seed found an error, 1 otherwise."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.state is not None and options.state.exists():
        parser.error(f"--state {options.state}: give a folder that does not exist yet")
    size = Size(options.requests, options.faults, options.users, options.clients)
    state_dir = options.state or Path(tempfile.mkdtemp(prefix="sluice-chaos-"))
    say = timed_report()
    reports: list[Report] = []
    campaign = Campaign(state_dir, say)
    try:
        with stopping_on_signals(), campaign:
            for seed in range(options.seed, options.seed + options.seeds):
                say(f"Seed {seed}: {size.requests} requests of {size.users} users, {size.faults} faults of each kind.")
                reports.append(report := campaign.run(seed, size))
                say(f"Seed {seed}: {summary(report)}")
    except KeyboardInterrupt:
        print("Interrupted: everything is stopped.", file=sys.stderr)
        return 130
    print()
    print(table(reports))
    say("Finished.")
    failed = [report for report in reports if report.wrong]
    for report in failed:
        print(f"\n{failure_report(report, size)}")
    if failed:
        print(f"\nThe stack's data and logs are in {state_dir}.")
        return 1
    if options.state is None:
        campaign.stack.destroy()
    return 0


def summary(report: Report) -> str:
    """One line about a run."""
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    ends = ", ".join(f"{count} {state}" for state, count in sorted(report.states.items()))
    verdict = f"{len(report.wrong)} ERRORS" if report.wrong else "no errors"
    return f"{verdict}; {report.accepted} accepted, {ends}; {took}."


def table(reports: Sequence[Report]) -> str:
    """All runs and their totals."""
    rows = [
        ["seed", "accepted", "completed", "failed", "cancelled", "expired", *KINDS, "model calls", "seconds", "verdict"]
    ]
    rows += [_row(str(report.seed), [report]) for report in reports]
    rows.append(_row("all", reports))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    killed = sum((report.killed for report in reports), Counter[str]())
    did = sum((report.model for report in reports), Counter[str]())
    answers = sum((report.answers for report in reports), Counter[str]())
    lines += ["", f"killed: {_listed(killed)} processes", f"the model: {_listed(did)}", f"the API: {_listed(answers)}"]
    return "\n".join(lines)


def failure_report(report: Report, size: Size) -> str:
    """What was wrong, and how to reproduce it."""
    lines = [f"Seed {report.seed}: {len(report.wrong)} errors:"]
    lines += [f"  {sentence}" for sentence in report.wrong[:_SHOWN]]
    if len(report.wrong) > _SHOWN:
        lines.append(f"  … and {len(report.wrong) - _SHOWN} more")
    options = f"--seed {report.seed} --seeds 1 --requests {size.requests} --faults {size.faults}"
    options += f" --users {size.users} --clients {size.clients}"
    return "\n".join([*lines, f'To repeat: make chaos CHAOS="{options}"'])


def _row(name: str, reports: Sequence[Report]) -> list[str]:
    states = sum((report.states for report in reports), Counter[str]())
    faults = sum((report.faults for report in reports), Counter[str]())
    figures = [
        sum(report.accepted for report in reports),
        *(states[state] for state in ("completed", "failed", "cancelled", "expired")),
        *(faults[kind] for kind in KINDS),
        sum(report.model.total() for report in reports),
        round(sum(sum(report.seconds.values()) for report in reports)),
    ]
    wrong = sum(len(report.wrong) for report in reports)
    return [name, *map(str, figures), f"{wrong} wrong" if wrong else "ok"]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Thousands of requests and every kind of fault; nothing may be lost, duplicated or miscounted.",
    )
    default = Size()
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--seeds", type=int, default=10, help="the number of seeds (default: 10)")
    parser.add_argument("--requests", type=int, default=default.requests, help=f"for each seed ({default.requests})")
    parser.add_argument(
        "--faults", type=int, default=default.faults, help=f"of each kind, for each seed ({default.faults})"
    )
    parser.add_argument("--users", type=int, default=default.users, help=f"for each seed ({default.users})")
    parser.add_argument("--clients", type=int, default=default.clients, help=f"concurrent clients ({default.clients})")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="a new folder for data and logs, which are kept (default: a temporary one)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
