"""Child processes: starting, recognising again, stopping without remainder.

Every server of the stack is the leader of a process group of its own. So Ctrl-C in the terminal reaches only the
stack itself, which then stops its servers in order, and stopping a server also reaches whatever it started.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Self

from local.account import Account
from local.errors import LocalError
from local.files import tail, write_atomically

_POLL_SECONDS = 0.02


# ── Recognising a process again ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ProcessIdentity:
    """A process as it can be recognised again by another run: ids are reused, start times are not.

    `started` is opaque: equal for the same process, different for any other with this id, across reboots too.
    `stop_signal` asks it to end in good order.
    """

    name: str
    pid: int
    started: str
    stop_signal: int = signal.SIGTERM

    @classmethod
    def of(cls, pid: int, name: str, stop_signal: int = signal.SIGTERM) -> Self | None:
        """The identity of a live process, or None if there is none with this id."""
        started = _started(pid)
        return None if started is None else cls(name, pid, started, int(stop_signal))

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return _started(self.pid) == self.started


def _started(pid: int) -> str | None:
    """When the process started, as precisely as the system says; None if it does not run."""
    for row in _process_table(pid):
        return None if row.state in "ZX" else row.started
    return None


def group_members(group: int) -> list[int]:
    """Ids of the live processes in a process group."""
    return [row.pid for row in _process_table() if row.group == group and row.state not in "ZX"]


class _Row(NamedTuple):
    pid: int
    group: int
    state: str  # one letter: Z for a zombie, X for dead
    started: str


def _process_table(only: int | None = None) -> Iterator[_Row]:
    """The system's processes, or the one with id `only`: from /proc, or from `ps` where there is none (macOS)."""
    if not Path("/proc/self/stat").exists():
        yield from _process_table_by_ps(only)
        return
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for entry in Path("/proc").iterdir() if only is None else [Path("/proc", str(only))]:
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # it has ended meanwhile
        # The second field is the command in parentheses and may hold anything, a parenthesis too.
        fields = stat.rpartition(")")[2].split()
        yield _Row(int(entry.name), int(fields[2]), fields[0], f"{boot}:{fields[19]}")


def _process_table_by_ps(only: int | None) -> Iterator[_Row]:
    which = ["-A"] if only is None else ["-p", str(only)]
    listing = subprocess.run(
        ["ps", *which, "-o", "pid=,pgid=,stat=,lstart="],
        check=False,
        capture_output=True,
        text=True,
        env={"LC_ALL": "C", "PATH": os.defpath},
    )
    for line in listing.stdout.splitlines():
        pid, group, state, started = line.split(maxsplit=3)
        yield _Row(int(pid), int(group), state[0], started.strip())


# ── Starting and stopping ─────────────────────────────────────────────────────────────────────────────────────────


class Process:
    """A server started by this run: the leader of its own process group, its output in one log file.

    As a child that this run has not waited for, its id cannot be given to another process meanwhile.
    """

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, stop_signal: signal.Signals) -> None:
        self.name = name
        self.log = log
        self._popen = popen
        self._stop_signal = stop_signal
        self.identity = ProcessIdentity.of(popen.pid, name, stop_signal) or ProcessIdentity(name, popen.pid, "")

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str],
        cwd: Path | None = None,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        keep_stdin: bool = False,
    ) -> Self:
        """Start `command` with its output appended to `log`.

        `account` is who it runs as, if not this user. `stop_signal` asks it to end in good order. With `keep_stdin`
        it gets a pipe that closes when this run dies, however it dies.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if keep_stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                **(account.run_as() if account is not None else {}),
            )
        return cls(name, popen, log, stop_signal)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal, as subprocess has it."""
        return self._popen.poll()

    @property
    def alive(self) -> bool:
        return self.exit_code is None

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the leader alone; nothing happens if it has ended."""
        self._popen.send_signal(signum)

    def wait(self, seconds: float) -> bool:
        """Whether the leader has ended within `seconds`."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, seconds: float = 10.0) -> None:
        """End it and all of its group: asked first, killed after `seconds`. Safe to call again."""
        if self.alive:
            self.signal(self._stop_signal)
            self.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """End it and all of its group at once, as a crash would. Safe to call again."""
        if self.alive:
            self._popen.kill()
            self._popen.wait()
        kill_group(self.pid)
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log, for a person who has to find out why it ended."""
        return tail(self.log, lines)


def kill_group(group: int, seconds: float = 5.0) -> None:
    """End whatever still runs in a process group whose leader is gone; returns when none is left.

    While a group has members its id is not given to a new process, so this reaches none but theirs.
    """
    deadline = time.monotonic() + seconds
    while members := group_members(group):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LocalError(f"Processes {members} do not end, even when killed.")
        time.sleep(_POLL_SECONDS)


def end(identity: ProcessIdentity, seconds: float = 10.0) -> bool:
    """End a process that another run left behind. False, touching nothing, if it is not the one described."""
    if not identity.alive():
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(identity.pid, identity.stop_signal)
    if not wait_until(lambda: not identity.alive(), seconds):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGKILL)
        wait_until(lambda: not identity.alive(), seconds)
    return True


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` came true within `seconds`, looked at some fifty times a second."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


class ProcessRecord:
    """The list of running servers, kept in a file so that the next run can end what this one could not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._running: dict[int, ProcessIdentity] = {}

    def add(self, process: Process) -> None:
        """Call directly after a start: a run that is killed later leaves its servers on record."""
        self._running[process.pid] = process.identity
        self._write()

    def clear(self) -> None:
        """All have been stopped."""
        self._running.clear()
        self._path.unlink(missing_ok=True)

    def leftovers(self) -> Iterator[ProcessIdentity]:
        """Servers that an earlier run recorded; alive or not. Nothing if the file is absent or unreadable."""
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            for entry in entries:
                yield ProcessIdentity(
                    str(entry["name"]), int(entry["pid"]), str(entry["started"]), int(entry["stop_signal"])
                )
        except (OSError, ValueError, TypeError, KeyError):
            return

    def _write(self) -> None:
        entries = [asdict(each) for each in self._running.values()]
        write_atomically(self._path, json.dumps(entries, indent=1))


_SIGNALS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that one way out serves Ctrl-C and them.

    For the main thread only.
    """

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore signals that ask us to stop: a second Ctrl-C must not leave half of the servers running.

    Signals reach the main thread alone; in another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handling(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handling(handler: Callable[[int, object], None] | signal.Handlers) -> Iterator[None]:
    previous = {signum: signal.signal(signum, handler) for signum in _SIGNALS_TO_STOP}
    try:
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)
