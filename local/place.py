"""Folders in which the tools that Sluice is made with do not work: refused at once instead of after minutes.

`make setup` runs this file before it installs anything, so it imports only the standard library.
"""

import os
import sys
from pathlib import Path

# Virtual environments refuse a colon, which separates folders in PATH. PostgreSQL's initdb calls its programs through a
# shell, between double quotes, where the others have a meaning.
_CHARACTERS = ':$`"\\'
# PostgreSQL's programs know paths of up to 1024 bytes, and what is installed is some 150 bytes deeper.
_LONGEST = 800


def problem_with(folder: Path) -> str | None:
    """Return a sentence that says why Sluice cannot run in a folder and what to do; None if it can."""
    path = str(folder)
    shown = ascii(path).strip("'\"") if not path.isprintable() else path
    found = sorted({each for each in path if each in _CHARACTERS or not each.isprintable()})
    if found:
        names = " and ".join(repr(each) for each in found)
        return f"The folder {shown} has {names} in its name, which breaks PostgreSQL or Python: move it elsewhere."
    if len(os.fsencode(path)) > _LONGEST:
        return f"The path of the folder {shown} has more than {_LONGEST} bytes: move it elsewhere."
    return None


def main() -> int:
    """Check the current folder, in which `make setup` is about to install."""
    here = Path.cwd()
    problem = problem_with(here)
    if problem is None and not os.access(here, os.W_OK | os.X_OK):
        problem = f"Nothing can be written into the folder {here}: make it writable, or copy it elsewhere."
    if problem is not None:
        print(f"setup: {problem}", file=sys.stderr)
    return problem is not None


if __name__ == "__main__":
    sys.exit(main())
