"""Child processes: starting, identifying and stopping them, with everything that they have started.

Each server of the stack is the leader of its own process group. So Ctrl-C in the terminal interrupts only the stack,
which then stops its servers in order, and stopping a server also ends the processes that it has started.
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


# Identifying processes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessIdentity:
    """Identifies a process for later runs, by its id and start time: ids are reused.

    Attributes:
        name: for messages.
        pid: its id.
        started: an opaque value that differs for every other process with this id, even after a reboot.
        stop_signal: asks it to shut down.
    """

    name: str
    pid: int
    started: str
    stop_signal: int = signal.SIGTERM

    @classmethod
    def of(cls, pid: int, name: str, stop_signal: int = signal.SIGTERM) -> Self | None:
        """Return the identity of a running process, or None if there is none with this id."""
        started = _started(pid)
        return None if started is None else cls(name, pid, started, int(stop_signal))

    def alive(self) -> bool:
        """Return True if this process still runs; a zombie does not."""
        return _started(self.pid) == self.started


def _started(pid: int) -> str | None:
    """Return when a process started, as precisely as the system knows, or None if it does not run."""
    for row in _process_table(pid):
        return None if row.state in "ZX" else row.started
    return None


def group_members(group: int) -> list[int]:
    """Return the ids of the running processes in a process group."""
    return [row.pid for row in _process_table() if row.group == group and row.state not in "ZX"]


class _Row(NamedTuple):
    pid: int
    group: int
    state: str  # one letter: Z for a zombie, X for dead
    started: str


def _process_table(only: int | None = None) -> Iterator[_Row]:
    """Yield all processes, or the one with id `only`, from /proc, or from `ps` on systems without it (macOS)."""
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
            continue  # it has ended in the meantime
        # The second field is the command in parentheses, which may itself contain parentheses.
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


# Starting and stopping ------------------------------------------------------------------------------------------------


class Process:
    """A child process of this run: the leader of its own process group, with its output in a log file.

    Its id cannot be reused until this run has waited for it.
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
        """Start a process.

        Args:
            name: for messages.
            command: the program and its arguments.
            log: the file to which its output is appended.
            env: its environment.
            cwd: its working directory.
            account: which it runs as; by default the current user.
            stop_signal: asks it to shut down.
            keep_stdin: True to give it a pipe as standard input that is closed when this run ends, even if killed.
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
        """Its id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it, as in subprocess."""
        return self._popen.poll()

    @property
    def alive(self) -> bool:
        """True while it runs."""
        return self.exit_code is None

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to this process only; nothing happens if it has ended."""
        self._popen.send_signal(signum)

    def wait(self, seconds: float) -> bool:
        """Wait for it to end; return False if it still runs after `seconds`."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, seconds: float = 10.0) -> None:
        """Stop it and its group: ask it to shut down, and kill it after `seconds`. Safe to call again."""
        if self.alive:
            self.signal(self._stop_signal)
            self.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill it and its group, as in a crash. Safe to call again."""
        if self.alive:
            self._popen.kill()
            self._popen.wait()
        kill_group(self.pid)
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of its log, which may show why it ended."""
        return tail(self.log, lines)


def kill_group(group: int, seconds: float = 5.0) -> None:
    """Kill the remaining processes of a group whose leader has ended, and wait until they are gone.

    The id of a group with members is not reused, so this cannot hit other processes.

    Raises:
        LocalError: some are still running after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while members := group_members(group):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LocalError(f"Processes {members} are still running after being killed.")
        time.sleep(_POLL_SECONDS)


def end(identity: ProcessIdentity, seconds: float = 10.0) -> bool:
    """Stop a process that another run left behind. Return False, without a signal, if it no longer runs."""
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
    """Wait until a condition is true, checking it 50 times a second; return False after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


class ProcessRecord:
    """The list of running servers in a file, so that the next run can stop those that this one left behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._running: dict[int, ProcessIdentity] = {}

    def add(self, process: Process) -> None:
        """Add a process. Call it right after starting one."""
        self._running[process.pid] = process.identity
        self._write()

    def clear(self) -> None:
        """Remove the file: all processes have been stopped."""
        self._running.clear()
        self._path.unlink(missing_ok=True)

    def leftovers(self) -> Iterator[ProcessIdentity]:
        """Yield the servers recorded by an earlier run, running or not; none if the file is missing or damaged."""
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
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that they are handled like Ctrl-C.

    SIGINT and SIGHUP stay ignored if they were, as in the background of a script or under nohup; SIGTERM always stops.
    For the main thread only.
    """

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    ignored = [each for each in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_IGN]
    with _handling(interrupt, [each for each in _SIGNALS_TO_STOP if each not in ignored]):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore the signals that stop a run: a second Ctrl-C must not leave some of the servers running.

    Only the main thread receives signals; in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handling(signal.SIG_IGN, _SIGNALS_TO_STOP):
        yield


@contextlib.contextmanager
def _handling(
    handler: Callable[[int, object], None] | signal.Handlers, signals: Sequence[signal.Signals]
) -> Iterator[None]:
    previous = {signum: signal.signal(signum, handler) for signum in signals}
    try:
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)
