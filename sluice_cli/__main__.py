"""Entry point of `sluice` and of `python -m sluice_cli`."""

import io
import sys

from sluice_cli.output import prepare_streams
from sluice_cli.root import cli


def main() -> None:
    """Run the command that the arguments name and exit with its code."""
    prepare_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal's encoding lacks are shown escaped.
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="sluice")


if __name__ == "__main__":
    main()
