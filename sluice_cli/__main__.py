"""The program `sluice`, and ``python -m sluice_cli``."""

import io
import sys

from sluice_cli.root import cli


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is shown escaped.
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="sluice")


if __name__ == "__main__":
    main()
