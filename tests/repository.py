"""Checks on the text of every file in the repository; run by `make lint`.

What is checked in must not depend on the machine it was written on: no address of a package registry (pip, npm and uv
know theirs), no absolute path into somebody's home, no merge conflict, no trailing space. SQL keeps to the same width as
Python, for which ruff checks it.
"""

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The patterns are written so that they do not match themselves.
FORBIDDEN = {
    "names a package registry": re.compile(
        r"files[.]pythonhosted|pypi[.]org/simple|registry[.]npmjs|--(?:extra-)?index[-]url[ =]|file[:]///"
    ),
    "names a person's folder": re.compile(r"(?<![\w.{$])/(?:home|Users|root)/[\w.]+"),
    "has a conflict marker": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
    "ends a line in space": re.compile(r"[ \t]+$", re.MULTILINE),
}
WIDTH = 120
WIDTH_APPLIES_TO = "layers/*.sql"  # in all of its folders


def files() -> list[Path]:
    """Everything that is in git or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def problems(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []  # a picture
    found = [what for what, pattern in FORBIDDEN.items() if pattern.search(text)]
    if path.suffix == ".txt" and "ends a line in space" in found:
        found.remove("ends a line in space")  # a snapshot of what a tool printed
    if text and not text.endswith("\n"):
        found.append("lacks its last newline")
    if fnmatch(path.relative_to(ROOT).as_posix(), WIDTH_APPLIES_TO):
        lines = enumerate(text.splitlines(), 1)
        found += [f"line {number} is longer than {WIDTH} columns" for number, line in lines if len(line) > WIDTH]
    return found


def main() -> int:
    bad = [f"{path.relative_to(ROOT)} {problem}" for path in files() for problem in problems(path)]
    print("\n".join(bad) or "repository: text of every file is fine", file=sys.stderr if bad else sys.stdout)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
