"""The installed program as a process: pipes, terminals, signals; and the contents of its wheel."""

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli.conftest import Deployment, ok
from tests.unit.scripted_server import Exchange

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("sluice")
LONG = "0123456789" * 20


def test_program_and_module_are_the_same(deployment: Deployment) -> None:
    for program in ([PROGRAM], [sys.executable, "-m", "sluice_cli"]):
        deployment.server.replies(ok([{"user_id": "alice"}]))
        done = subprocess.run([*program, "users", "list", "--json"], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == [{"user_id": "alice"}]


def test_closed_pipe_ends_it_silently(deployment: Deployment) -> None:
    for page in range(1, 41):
        rows = [{"audit_id": f"{page}-{row}", "before": LONG} for row in range(500)]
        deployment.server.replies(ok({"entries": rows, "next_cursor": str(page) if page < 40 else None}))
    piped = f"{shlex.quote(str(PROGRAM))} audit list | head -n 2"
    done = subprocess.run(piped, shell=True, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    assert len(deployment.asked) < 40, "it continued after the pipe was closed"


def test_interrupt_exits_with_130(deployment: Deployment) -> None:
    deployment.server.replies(Exchange.wait)
    with subprocess.Popen([PROGRAM, "verify"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not deployment.server.received:
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=30)
    assert (running.returncode, stdout, stderr) == (130, "", "sluice: Interrupted.\n")


def test_characters_missing_from_the_encoding_are_escaped(deployment: Deployment) -> None:
    deployment.server.replies(ok([{"user_id": "alice", "name": "Jürgen 日本"}]))
    done = subprocess.run(
        [PROGRAM, "users", "list"],
        check=False,
        capture_output=True,
        encoding="latin-1",
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert r"Jürgen \u65e5\u672c" in done.stdout


@pytest.mark.parametrize(("columns", "is_table"), [(400, True), (80, False)])
def test_terminal_shows_a_table_if_it_fits_and_records_otherwise(
    deployment: Deployment, columns: int, is_table: bool
) -> None:
    deployment.server.replies(ok([{"user_id": "alice", "name": LONG}, {"user_id": "bob"}]))
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen([PROGRAM, "users", "list"], stdout=theirs, env=environment):
        os.close(theirs)
        shown = read_all(ours)
    assert LONG in shown, "cut or wrapped"
    assert "\x1b[1m" in shown, "bold"
    lines = shown.splitlines()
    if is_table:
        assert len(lines) == 3
    else:
        assert "" in lines, "between two records"
        assert sum("user_id" in each for each in lines) == 2


def read_all(terminal: int) -> str:
    """Read a terminal until it is closed."""
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # on Linux: it was closed
            part = b""
        if not part:
            os.close(terminal)
            return b"".join(parts).decode()
        parts.append(part)


def test_wheel_contains_only_the_command_line(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == {str(path.relative_to(ROOT)) for path in (ROOT / "sluice_cli").rglob("*.py")}
    assert "sluice = sluice_cli.__main__:main" in entry_points
    required = {line.split()[1].split(">")[0] for line in metadata.splitlines() if line.startswith("Requires-Dist:")}
    assert required == {"boto3", "click", "rich"}
