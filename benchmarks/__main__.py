"""`make bench`: measure, print the report, and with --write put it into docs/benchmarks.md.

What docs/scale.md makes of the figures is written with them.
"""

import argparse
import sys
import time
from dataclasses import replace

from benchmarks import report
from benchmarks.bench import FULL, QUICK, Bench
from benchmarks.lines import LINES
from benchmarks.meter import HAS_CPU_TIMES
from benchmarks.scale import __main__ as scale
from benchmarks.server import running_server
from local.errors import LocalError

_NO_CPU_TIMES = "CPU times of the server's processes are left out: this system has no /proc."


def main(arguments: list[str] | None = None) -> int:
    """Run the lines that were asked for."""
    options = _parse(arguments)
    effort = QUICK if options.quick else FULL
    if options.rows_10m:
        effort = replace(effort, depths=(*effort.depths, 10_000_000))
    if options.rounds:
        effort = replace(effort, rounds=options.rounds)
    try:
        with running_server() as server:
            bench = Bench(server, effort)
            sections = [report.machine(server, effort.rounds), *([] if HAS_CPU_TIMES else [_NO_CPU_TIMES])]
            print("\n\n".join(sections))
            for name in options.only or LINES:
                began = time.monotonic()
                for table in LINES[name](bench):
                    sections.append(table.markdown())
                    print(f"\n{sections[-1]}", flush=True)
                print(f"benchmarks: {name} took {time.monotonic() - began:.0f} s", file=sys.stderr)
    except LocalError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if options.write:
        report.write(sections)
        return scale.main(["--write"])
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description="Measure Sluice beside other designs.")
    parser.add_argument("--quick", action="store_true", help="less of everything: within 3 minutes")
    parser.add_argument("--only", nargs="+", choices=LINES, metavar="LINE", help=f"of {', '.join(LINES)}")
    parser.add_argument("--rounds", type=_positive, help="how many are counted (5, quick: 2)")
    parser.add_argument(
        "--rows-10m", action="store_true", help="also with 10 million old requests (some 80 GB of disk)"
    )
    parser.add_argument("--write", action="store_true", help="write the report to docs/benchmarks.md and docs/scale.md")
    options = parser.parse_args(arguments)
    if options.write and (options.only or options.quick):
        parser.error("--write replaces the whole report: leave out --only and --quick")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("give a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
