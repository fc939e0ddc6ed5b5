"""The AWS emulator: ministack, as a child process that writes only to the stack's folder."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from local.environment import ACCOUNT, REGION, ROOT, aws_client, aws_variables, child_environment, direct_opener
from local.errors import LocalError
from local.ports import LOOPBACK, claim_port
from local.processes import Process
from local.server import Server

_LOG_GROUPS = "/aws/lambda/"


def ministack_python() -> Path:
    """Return the interpreter that ministack is installed for. It also runs the emulated functions.

    That is the one in `.ministack-venv` if it exists: ministack needs one exact version of botocore.
    """
    candidates = [ROOT / ".ministack-venv" / "bin" / "python", Path(sys.executable)]
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and _can_import(candidate, "ministack", "samtranslator"):
            return candidate
    raise LocalError("The AWS emulator, ministack, is not installed: `make setup` installs it.")


def _can_import(python: Path, *modules: str) -> bool:
    check = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
    command = [str(python), "-c", check, *modules]
    return subprocess.run(command, check=False, capture_output=True, env=child_environment()).returncode == 0


class Emulator(Server):
    """ministack as a child process. Its state is in memory: each start is an empty account.

    Args:
        log: its log file.
        scratch: a folder for its temporary files, such as unpacked functions and layers; the caller removes it.
        port: where it listens; None for a free port.
        snapshots: True to support `snapshot` and `restart`.
    """

    name = "the AWS emulator"

    def __init__(self, log: Path, scratch: Path, port: int | None = None, *, snapshots: bool = False) -> None:
        super().__init__(log, port)
        self._scratch = scratch
        self._snapshots = snapshots

    @property
    def url(self) -> str:
        """The endpoint of all AWS services."""
        return f"http://{LOOPBACK}:{self.port}"

    def api_url(self, api_id: str) -> str:
        """Return the URL of an HTTP API with a $default stage, without a slash at the end."""
        return f"{self.url}/_aws/execute-api/{api_id}"

    def client(self, service: str) -> Any:
        """Return a client of one of its services."""
        return aws_client(service, self.url)

    def invoke(self, function: str, payload: object) -> Any:
        """Run a function and return its result.

        Raises:
            LocalError: the function failed.
        """
        answer = self.client("lambda").invoke(FunctionName=function, Payload=json.dumps(payload).encode())
        text = answer["Payload"].read()
        if "FunctionError" in answer:
            raise LocalError(f"The function {function} failed: {text.decode('utf-8', 'replace')}")
        return json.loads(text) if text else None

    def launch(self) -> Process:
        """Start it without waiting; see `wait_ready`."""
        self.port = claim_port(self._requested_port, "the API", "--api-port")
        return self._launch()

    def _launch(self) -> Process:
        python = ministack_python()
        self._scratch.mkdir(parents=True, exist_ok=True)
        environment = child_environment(
            **aws_variables(self.url),
            BIND_HOST=LOOPBACK,
            GATEWAY_PORT=str(self.port),
            MINISTACK_HOST=LOOPBACK,  # the host in its queue URLs
            MINISTACK_REGION=REGION,
            MINISTACK_ACCOUNT_ID=ACCOUNT,
            LAMBDA_EXECUTOR="local",  # never a container, even if Docker is installed
            LAMBDA_ACCOUNT_CONCURRENCY="1000",  # the quota of an ordinary account, whatever memory this machine has
            PERSIST_STATE="1" if self._snapshots else "0",
            S3_PERSIST="1" if self._snapshots else "0",
            S3_DATA_DIR=str(self._scratch / "s3"),
            STATE_DIR=str(self._scratch / "state"),
            TMPDIR=str(self._scratch),
            # Disables services that are not used here and would listen on all interfaces.
            IOT_MTLS_ENABLED="0",
            SFTP_ENABLED="0",
            PYTHONUNBUFFERED="1",
            # Each execution environment unpacks its own copy of the layer, so compiled modules are never reused.
            PYTHONDONTWRITEBYTECODE="1",
        )
        # -P: this folder's modules are not the interpreter's.
        command = [str(python), "-P", str(Path(__file__).with_name("ministack_main.py"))]
        self._process = Process.start(self.name, command, log=self.log, env=environment, cwd=self._scratch)
        return self._process

    def snapshot(self) -> Process:
        """Save the current state, to which `restart` returns from then on.

        It is restarted for this, because it saves its state only when it is stopped.
        """
        self._require_snapshots()
        self.stop()
        return self._relaunch()

    def restart(self) -> Process:
        """Kill it with its functions and start it in the state of the last `snapshot`; later changes are lost."""
        self._require_snapshots()
        if self._process is not None:
            self._process.kill()
        return self._relaunch()

    def _require_snapshots(self) -> None:
        if not self._snapshots:
            raise LocalError("This AWS emulator has no snapshot to start from.")

    def _relaunch(self) -> Process:
        process = self._launch()
        self.wait_ready()
        return process

    def _ready(self) -> bool:
        try:
            with direct_opener.open(f"{self.url}/_ministack/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class FunctionLogs:
    """Copies the logs of the functions to files, `<folder>/<function>.log`, about once a second.

    The emulator keeps logs in memory, with a stream for each invocation. Copied streams are deleted there; otherwise
    each pass would take longer than the one before.

    Args:
        emulator: runs the functions.
        folder: of the files.
        prefix: removed from function names to get file names.
    """

    def __init__(self, emulator: Emulator, folder: Path, prefix: str) -> None:
        self._logs = emulator.client("logs")
        self._folder = folder
        self._prefix = prefix
        self._stopped = threading.Event()
        self._copying = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="function-logs", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start copying in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Copy the rest and stop. Call it before the emulator is stopped."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self.copy()

    def copy(self) -> None:
        """Copy what has been logged so far. Never fails: the emulator may have ended already."""
        with self._copying, contextlib.suppress(Exception):
            for group in self._logs.describe_log_groups(logGroupNamePrefix=_LOG_GROUPS)["logGroups"]:
                self._copy_group(group["logGroupName"])

    def _follow(self) -> None:
        while not self._stopped.wait(1.0):
            self.copy()

    def _copy_group(self, group: str) -> None:
        name = group.removeprefix(_LOG_GROUPS).removeprefix(self._prefix)
        streams = self._logs.describe_log_streams(logGroupName=group)["logStreams"]
        for stream in sorted(streams, key=lambda each: each.get("firstEventTimestamp") or 0):
            which = {"logGroupName": group, "logStreamName": stream["logStreamName"]}
            events = self._logs.get_log_events(**which, startFromHead=True)["events"]
            if not events:
                continue
            with (self._folder / f"{name}.log").open("a", encoding="utf-8") as log:
                log.writelines(event["message"].rstrip("\n") + "\n" for event in events)
            self._logs.delete_log_stream(**which)
