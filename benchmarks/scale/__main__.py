"""`make scale`: calculate, and write the tables of docs/scale.md."""

import argparse
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.scale import page
from benchmarks.scale.inputs import PRICES, ScaleError


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; with --write, put them into the page."""
    parser = argparse.ArgumentParser("benchmarks.scale", description="What a writer carries, and what requests cost.")
    parser.add_argument("--prices", type=Path, default=PRICES, help="another price file")
    parser.add_argument("--figures", type=Path, default=report.PAGE, help="another page written by make bench")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/scale.md")
    options = parser.parse_args(arguments)
    try:
        sections = page.sections(page.read(options.prices, options.figures))
    except ScaleError as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    if options.write:
        report.write(sections, page.PAGE)
    else:
        print("\n\n".join(sections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
