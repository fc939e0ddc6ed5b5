"""The local stack: starts all servers, deploys the template, creates a demo user with a key, and stops everything.

with Stack(Path(".local")) as stack:
    urllib.request.urlopen(stack.info.api_url + "/health")
"""

import contextlib
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from local import deploy
from local.admin import DEMO_USER, Admin
from local.containers import Forwarder
from local.deploy import Build
from local.emulator import Emulator, FunctionLogs
from local.environment import ACCESS_KEY, REGION, SECRET_KEY, architecture, bypass_proxy
from local.errors import LocalError
from local.files import Lock, read_or_create, write_atomically
from local.llm import LanguageModel
from local.old_data import set_aside_old_data
from local.ports import LOOPBACK
from local.postgres import Postgres, StopMode
from local.processes import Process, ProcessRecord, end, kill_group, uninterrupted
from local.report import Report

DATABASE = "sluice"
OWNER = "sluice_owner"

_SECRET_NAME = "sluice/database"  # noqa: S105  (its name, not its content)


@dataclass(frozen=True)
class StackInfo:
    """Addresses and credentials of a running stack, as in `stack.json`. They are secret."""

    api_url: str
    api_key: str
    user_id: str
    database_url: str
    queue_url: str
    dead_letter_queue_url: str
    aws_endpoint_url: str
    llm_url: str
    functions: Mapping[str, str]  # role → deployed name
    region: str
    aws_access_key_id: str
    aws_secret_access_key: str
    logs: str
    container_address: str | None = None  # at which containers reach all of it; None: they do not
    pids: Mapping[str, int] = field(default_factory=dict)  # server → process id


class Stack:
    """A stack with its data, logs and addresses in a folder, where only one stack can run at a time.

    Args:
        state_dir: the folder.
        api_port: of the API; None for a free port.
        database_port: of PostgreSQL; None for a free port.
        llm_port: of the language model; None for a free port.
        llm_url: an OpenAI-compatible endpoint to use instead of the small model, which is then not started.
        parameters: override those of the template.
        durable: False if PostgreSQL need not wait for the disk.
        restartable: True to support `restart_emulator`; starting then takes some seconds longer.
        container_address: an address of this machine at which its containers reach it, and at which all servers can
            be reached then; None: they can be reached on 127.0.0.1 only.
        report: called with a sentence for each step.
    """

    def __init__(
        self,
        state_dir: Path = Path(".local"),
        *,
        api_port: int | None = None,
        database_port: int | None = None,
        llm_port: int | None = None,
        llm_url: str | None = None,
        parameters: Mapping[str, str] | None = None,
        durable: bool = True,
        restartable: bool = False,
        container_address: str | None = None,
        report: Report | None = None,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.logs_dir = self.state_dir / "logs"
        self._llm_url = llm_url
        self._parameters = dict(parameters or {})
        self._report = report or (lambda sentence: None)
        self._lock = Lock(self.state_dir / "stack.lock")
        self._record = ProcessRecord(self.state_dir / "processes.json")
        self._scratch = self.state_dir / "tmp"
        self._demo_key_file = self.state_dir / "demo.key"
        self._function_logs: FunctionLogs | None = None
        self._info: StackInfo | None = None

        self.emulator = Emulator(self.logs_dir / "ministack.log", self._scratch, api_port, snapshots=restartable)
        self._restartable = restartable
        self.llm = LanguageModel(self.logs_dir / "llm.log", llm_port)
        self._build = Build(self.state_dir, self.logs_dir / "build.log")
        self._database_port = database_port
        self._durable = durable
        self._container_address = container_address
        self._forwarder: Forwarder | None = None
        self._postgres: Postgres | None = None

    # Lifecycle --------------------------------------------------------------------------------------------------------

    def start(self) -> StackInfo:
        """Start everything; on return the API answers and `stack.json` is written. On failure, it stops everything."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire():
            raise LocalError(
                f"A stack is already running in {self.state_dir} (process {self._lock.holder()}): stop it first."
            )
        try:
            self._clean_up_after_a_crash()
            self._start_servers()
            self._forward()
            self._publish(self._deploy())
        except BaseException:
            self.stop()
            raise
        return self.info

    def stop(self) -> None:
        """Stop everything and remove `stack.json`. Safe to call again, and after a start that failed."""
        if not self._lock.held:
            return  # the files in the folder may belong to another run
        # If one of them fails, the others are stopped all the same. The last callback runs first.
        with uninterrupted(), contextlib.ExitStack() as steps:
            steps.callback(self._lock.release)
            steps.callback(self._record.clear)
            steps.callback(shutil.rmtree, self._scratch, ignore_errors=True)
            if self._postgres is not None:
                steps.callback(self._postgres.stop)
            steps.callback(self.llm.stop)
            steps.callback(self.emulator.stop)
            if self._function_logs is not None:
                steps.callback(self._function_logs.stop)
                self._function_logs = None
            steps.callback(self._build.stop)
            if self._forwarder is not None:
                steps.callback(self._forwarder.stop)
                self._forwarder = None
            steps.callback(self.stack_file.unlink, missing_ok=True)
            self._info = None

    def destroy(self) -> None:
        """Stop everything and remove the folder with all data, also PostgreSQL's outside of it; for tests."""
        self.stop()
        if not self.state_dir.exists():
            return
        if not self._lock.acquire():
            raise LocalError(f"Another run (process {self._lock.holder()}) is using {self.state_dir}.")
        Postgres(self.state_dir / "postgres").destroy()
        shutil.rmtree(self.state_dir)
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def stack_file(self) -> Path:
        """The file with the stack's addresses while it runs; only its owner can read it."""
        return self.state_dir / "stack.json"

    @property
    def running(self) -> bool:
        """True if `start` has succeeded and `stop` has not been called since."""
        return self._info is not None

    @property
    def info(self) -> StackInfo:
        """The addresses of the running stack."""
        if self._info is None:
            raise LocalError("The stack is not running.")
        return self._info

    def failure(self) -> str | None:
        """Return a sentence about a server that has ended by itself, or None if all are running."""
        for process in self._processes().values():
            if not process.alive:
                return (
                    f"{process.name[0].upper()}{process.name[1:]} ended by itself (exit code {process.exit_code}). "
                    f"The end of its log, {process.log}:\n{process.log_tail()}"
                )
        return None

    def revive(self) -> bool:
        """Restart the database or the model, on the same port, if it ended by itself.

        Return False if the emulator has ended: the deployment and the queues are lost with it.
        """
        if not self.emulator.process or not self.emulator.process.alive:
            return False
        if not self.postgres.alive:
            self.restart_postgres()
        if self._llm_url is None and not self.llm.alive:
            self.llm.stop()
            self.llm.start()
            self._remember(self.llm.process)
        self._publish(replace(self.info, pids=self._pids()))
        return True

    # Operations -------------------------------------------------------------------------------------------------------

    @property
    def postgres(self) -> Postgres:
        """The database server; tests may restart or kill it."""
        if self._postgres is None:
            raise LocalError("The stack is not running.")
        return self._postgres

    def client(self, service: str) -> Any:
        """Return a boto3-style client of one of the emulator's services."""
        return self.emulator.client(service)

    def invoke(self, role: str, payload: object) -> Any:
        """Run the function of a role and return its result."""
        return self.emulator.invoke(self.info.functions[role], payload)

    def admin(self, operation: str, **arguments: object) -> dict[str, Any]:
        """Run an operation of the admin function and return its result.

        Raises:
            AdminError: the operation was refused.
        """
        return Admin(self.emulator, self.info.functions["admin"]).run(operation, arguments)

    def restart_postgres(self, mode: StopMode = "fast") -> None:
        """Restart the database on the same port; `immediate` is a crash."""
        self.postgres.restart(mode)
        self._remember(self.postgres.process)

    def restart_emulator(self) -> None:
        """Kill the emulator with its functions and start it on the same port, with the same deployment.

        The messages in its queues are lost. Needs `restartable`.
        """
        self._remember(self.emulator.restart())
        self._publish(replace(self.info, pids=self._pids()))

    # Internals --------------------------------------------------------------------------------------------------------

    def _clean_up_after_a_crash(self) -> None:
        """Stop the servers and remove the files of a killed run. We hold the lock, so no other run uses them."""
        for identity in self._record.leftovers():
            if end(identity):
                kill_group(identity.pid)
                self._report(f"Stopped {identity.name} (process {identity.pid}), left behind by a run that was killed.")
        self._record.clear()
        if self.stack_file.exists():
            self.stack_file.unlink()
            self._report("Removed the stack.json of a run that did not shut down.")
        shutil.rmtree(self._scratch, ignore_errors=True)
        previous = self.logs_dir.with_name("logs.previous")
        shutil.rmtree(previous, ignore_errors=True)
        if self.logs_dir.exists():
            self.logs_dir.rename(previous)
        self.logs_dir.mkdir()

    def _start_servers(self) -> None:
        # At the same time: while starting, each mostly waits or uses one processor.
        self._remember(self.emulator.launch())
        if self._llm_url is None:
            self._remember(self.llm.launch())
        building = self._build.launch()
        self._remember(self._build.process)
        self._start_postgres()
        self._report(f"PostgreSQL listens on port {self.postgres.port}.")
        self.emulator.wait_ready()
        self._report(f"The AWS emulator answers at {self.emulator.url}.")
        self._build.wait()
        self._report("Built template.yaml." if building else "The last build of template.yaml is up to date.")

    def _forward(self) -> None:
        if self._container_address is None:
            return
        bypass_proxy(self._container_address)
        self._forwarder = Forwarder(self._container_address)
        ports = [self.postgres.port, self.emulator.port] + ([self.llm.port] if self._llm_url is None else [])
        self._forwarder.start(ports)
        self._report(f"Containers reach the same ports at {self._container_address}.")

    def _start_postgres(self) -> None:
        self._postgres = Postgres(
            self.state_dir / "postgres", self._database_port, durable=self._durable, log=self.logs_dir / "postgres.log"
        )
        self._postgres.start()
        self._remember(self._postgres.process)
        for note in self._postgres.notes:
            self._report(note)
        self._postgres.ensure_database(DATABASE, OWNER, self._owner_password())
        sentence = set_aside_old_data(
            self._postgres,
            DATABASE,
            OWNER,
            self._owner_password(),
            state_dir=self.state_dir,
            key_file=self._demo_key_file,
        )
        if sentence is not None:
            self._report(sentence)

    def _deploy(self) -> StackInfo:
        self._function_logs = FunctionLogs(self.emulator, self.logs_dir / "functions", f"{deploy.STACK_NAME}-")
        self._function_logs.start()
        parameters = {
            "DatabaseSecretArn": self._make_database_secret(),
            "Architecture": architecture(),
            # Short, so that retries can be watched.
            "RetryBaseSeconds": "1",
            # What fits its PostgreSQL (max_connections in local/postgres.py). Environments are slow here, so a burst
            # keeps more of them busy at once.
            "SubmitConcurrency": "60",
            "StatusConcurrency": "60",
            "OpenaiConcurrency": "30",
            # Receivers of webhooks are on this machine.
            "WebhookLoopback": "true",
            **self._parameters,
        }
        deployment = deploy.deploy(
            self.emulator, self._build.template, parameters, state_dir=self.state_dir, log=self.logs_dir / "deploy.log"
        )
        deploy.correct_event_sources(self.emulator)
        api_id, routes = deploy.create_routes(self.emulator, deployment)
        self._report(f"Deployed template.yaml: {len(deployment.resources)} resources, {len(routes)} routes.")
        self._report(deployment.outputs["Concurrency"])
        self._report(deployment.outputs["Connections"])
        if self._llm_url is None:
            self.llm.wait_ready()
            self._report(f"The language model answers at {self.llm.url}.")
        functions = deploy.functions(deployment)
        admin = Admin(self.emulator, functions["admin"])
        admin.register_models(self._llm_url or self._everywhere(self.llm.url))
        if self._restartable:
            self._remember(self.emulator.snapshot())
        api_url = self.emulator.api_url(api_id)
        return StackInfo(
            api_url=api_url,
            api_key=admin.demo_key(api_url, self._demo_key_file),
            user_id=DEMO_USER,
            database_url=self.postgres.url(DATABASE, user=OWNER, password=self._owner_password()),
            queue_url=deployment.outputs["RequestQueueUrl"],
            dead_letter_queue_url=deployment.outputs["DeadLetterQueueUrl"],
            aws_endpoint_url=self.emulator.url,
            llm_url=self._llm_url or self.llm.url,
            functions=functions,
            region=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            logs=str(self.logs_dir),
            container_address=self._container_address,
            pids=self._pids(),
        )

    def _publish(self, info: StackInfo) -> None:
        self._info = info
        write_atomically(self.stack_file, json.dumps(asdict(info), indent=2) + "\n")

    def _make_database_secret(self) -> str:
        value = {
            "engine": "postgres",
            "host": self._everywhere(LOOPBACK),
            "port": self.postgres.port,
            "dbname": DATABASE,
            "username": OWNER,
            "password": self._owner_password(),
            "sslmode": "disable",  # this build of PostgreSQL has no TLS, and nothing leaves the machine
        }
        made = self.emulator.client("secretsmanager").create_secret(Name=_SECRET_NAME, SecretString=json.dumps(value))
        return str(made["ARN"])

    def _everywhere(self, address: str) -> str:
        """What leads to the same server from this machine and from containers, if these are to reach it."""
        return address.replace(LOOPBACK, self._container_address or LOOPBACK)

    def _owner_password(self) -> str:
        return read_or_create(self.state_dir / "owner.password", lambda: secrets.token_urlsafe(24))

    def _pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes().items()}

    def _processes(self) -> dict[str, Process]:
        processes = {
            "postgres": self._postgres.process if self._postgres is not None else None,
            "ministack": self.emulator.process,
            "llm": self.llm.process,
        }
        return {name: process for name, process in processes.items() if process is not None}

    def _remember(self, process: Process | None) -> None:
        if process is not None:
            self._record.add(process)
