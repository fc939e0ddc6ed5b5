"""Output that cannot be written: nothing is done that cannot be shown, and a key that nobody saw is revoked."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Deployment, ok, refused
from tests.cli.test_output import API_KEY, KEY, USER

PROGRAM = [sys.executable, "-m", "sluice_cli"]
NEW_KEY = KEY | {"api_key": API_KEY}
# Each changes something, or lists.
COMMANDS = [
    "tiers list",
    "keys create alice",
    f"keys rotate {KEY['key_id']}",
    f"keys revoke {KEY['key_id']}",
    "users create alice",
    "users update alice --inactive",
    "quotas clear alice",
    "rollup usage",
    "audit list --json",
    "verify",
]


def closed() -> None:
    os.close(1)


def read_only() -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 1)


def full_device() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def unread_pipe() -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)


UNWRITABLE: list[Callable[[], None]] = [closed, read_only, full_device, unread_pipe]


def sluice(line: str, prepare: Callable[[], None], **options: object) -> subprocess.CompletedProcess[str]:
    """Run `sluice` after changing its standard streams."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*PROGRAM, *line.split()],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
        **options,  # type: ignore[call-overload]  # those of the tests below
    )
    return done


@pytest.fixture(autouse=True)
def module_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.mark.parametrize("prepare", UNWRITABLE)
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_done_that_cannot_be_shown(
    deployment: Deployment, command: str, prepare: Callable[[], None]
) -> None:
    if prepare in {read_only, full_device} and command not in COMMANDS[:2]:
        return  # the check is the same for all commands; two ways to fail show that each of them makes it
    done = sluice(command, prepare)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "output cannot be written" in said
    assert "Nothing was done." in said
    assert deployment.asked == []


@pytest.mark.parametrize("prepare", UNWRITABLE)
@pytest.mark.parametrize("line", ["--help", "keys create --help", "users", "--version"])
def test_help_and_version(line: str, prepare: Callable[[], None]) -> None:
    done = sluice(line, prepare)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize("prepare", UNWRITABLE)
def test_wrong_usage_is_still_wrong_usage(prepare: Callable[[], None]) -> None:
    assert sluice("users nonsense", prepare).returncode == 2


def close_errors() -> None:
    os.close(2)


def fill_errors() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


@pytest.mark.parametrize("errors", [close_errors, fill_errors])
def test_standard_error_is_not_needed(deployment: Deployment, errors: Callable[[], None]) -> None:
    deployment.server.replies(ok(NEW_KEY))
    made = sluice("keys create alice", errors, stdout=subprocess.PIPE)
    assert made.returncode == 0
    assert API_KEY in made.stdout
    deployment.server.replies(refused("user_not_found", "There is no user."))
    assert sluice("users show alice", errors, stdout=subprocess.PIPE).returncode == 1
    assert sluice("users nonsense", errors, stdout=subprocess.PIPE).returncode == 2


@pytest.mark.parametrize("errors", [close_errors, fill_errors])
@pytest.mark.parametrize("output", UNWRITABLE)
def test_neither_stream_can_be_written(
    deployment: Deployment, output: Callable[[], None], errors: Callable[[], None]
) -> None:
    def both() -> None:
        output()
        errors()

    assert sluice("keys create alice", both).returncode == 1
    assert deployment.asked == []


def test_closed_streams_are_never_replaced_by_a_file(deployment: Deployment) -> None:
    """The connection to AWS would get the number of standard output, and a record would be written into it."""

    def all_three() -> None:
        for descriptor in (0, 1, 2):
            os.close(descriptor)

    done = sluice("users show alice", all_three)
    assert done.returncode == 1
    assert deployment.server.received == []

    deployment.server.replies(ok(USER))
    shown = sluice("users show alice", lambda: os.close(0), stdout=subprocess.PIPE)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "alice@example.com" in shown.stdout


# What is found out too late -------------------------------------------------------------------------------------------


def limit_files() -> None:
    """Let files grow to 64 bytes, as on a disk that gets full after a part of the output."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))


@pytest.mark.parametrize("as_json", ["", " --json"])
def test_a_new_key_that_cannot_be_shown_is_revoked(deployment: Deployment, tmp_path: Path, as_json: str) -> None:
    deployment.server.replies(ok(NEW_KEY), ok(KEY))
    with (tmp_path / "key").open("w") as file:
        done = sluice(f"keys create alice{as_json}", limit_files, stdout=file)
    assert done.returncode == 1
    assert [each.name for each in deployment.asked] == ["key.create", "key.revoke"]
    assert deployment.asked[1].arguments == {"key_id": KEY["key_id"]}
    (said,) = done.stderr.splitlines()
    assert f"The key {KEY['key_id']} was revoked again" in said
    assert API_KEY not in said


def test_a_new_key_that_can_neither_be_shown_nor_revoked_is_named(deployment: Deployment, tmp_path: Path) -> None:
    deployment.server.replies(ok(NEW_KEY), refused("database_unavailable", "Later."))
    with (tmp_path / "key").open("w") as file:
        done = sluice("keys create alice", limit_files, stdout=file)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert f"revoke it with `sluice keys revoke {KEY['key_id']}`" in said


def test_a_rotation_that_cannot_be_shown_says_until_when_the_old_key_works(
    deployment: Deployment, tmp_path: Path
) -> None:
    old = {"key_id": "the-old-one", "expires_at": "2027-01-03T00:00:00+00:00"}
    deployment.server.replies(ok(NEW_KEY | {"replaces": old}), ok(KEY))
    with (tmp_path / "key").open("w") as file:
        done = sluice(f"keys rotate {KEY['key_id']}", limit_files, stdout=file)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "The old key the-old-one works until 2027-01-03T00:00:00+00:00" in said


def test_a_change_whose_result_cannot_be_shown_says_that_it_was_made(deployment: Deployment, tmp_path: Path) -> None:
    deployment.server.replies(ok(USER))
    with (tmp_path / "user").open("w") as file:
        done = sluice("users update alice --inactive", limit_files, stdout=file)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "has been done: `sluice audit list` shows it" in said


def test_a_list_that_cannot_be_shown_says_so(deployment: Deployment, tmp_path: Path) -> None:
    deployment.server.replies(ok([USER]))
    with (tmp_path / "users").open("w") as file:
        done = sluice("users list", limit_files, stdout=file)
    assert (done.returncode, done.stderr) == (1, "sluice: The output cannot be written: File too large.\n")
