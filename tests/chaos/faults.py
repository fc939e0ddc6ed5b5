"""The fault injector: one thread for each kind of fault, following the plan and counting what really happened."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.errors import LocalError
from local.stack import Stack
from tests.chaos.load import Ledger
from tests.chaos.plan import Fault, Plan
from tests.support.processes import function_processes

# Errors that the injector's own calls may get while other faults are active.
UNAVAILABLE = (BotoCoreError, ClientError, LocalError)

_PAUSE_SECONDS = 0.1
_INJECT_SECONDS = 60.0  # for a fault to find what it needs: a process to kill, messages to reorder
_KILLED_ROLES = {"worker": 12, "submit": 4, "openai": 3, "foreground": 3, "rollup": 3, "status": 1}
# What a waiting client depends on: the function that holds its connection, and the one that asks the model.
_CUT_ROLES: dict[tuple[str, ...], int] = {("openai",): 2, ("foreground",): 2, ("openai", "foreground"): 1}


class Aws:
    """The emulator's clients, created once, since that takes longer than a call."""

    def __init__(self, stack: Stack) -> None:
        self._functions = stack.info.functions
        self._lambda = stack.client("lambda")
        self.sqs = stack.client("sqs")
        self.queue_url = stack.info.queue_url
        self.dead_letter_queue_url = stack.info.dead_letter_queue_url

    def invoke(self, role: str, payload: object) -> Any:
        """Invoke a function.

        Raises:
            LocalError: it failed.
        """
        answer = self._lambda.invoke(FunctionName=self._functions[role], Payload=json.dumps(payload).encode())
        text = answer["Payload"].read()
        if "FunctionError" in answer:
            raise LocalError(f"The function {role} failed: {text.decode('utf-8', 'replace')}")
        return json.loads(text)

    def admin(self, operation: str, **arguments: object) -> dict[str, Any]:
        """The result of an operation of the admin function."""
        answer = self.invoke("admin", {"operation": operation, "arguments": arguments})
        if not answer["ok"]:
            raise LocalError(f"{operation} was refused: {answer['problem']}")
        return dict(answer["result"])

    def send(self, bodies: Sequence[str]) -> None:
        for start in range(0, len(bodies), 10):
            batch = bodies[start : start + 10]
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(batch)]
            self.sqs.send_message_batch(QueueUrl=self.queue_url, Entries=entries)

    def dead_letters(self) -> list[str]:
        """Remove all messages from the dead-letter queue."""
        bodies: list[str] = []
        which = {"QueueUrl": self.dead_letter_queue_url}
        while messages := self.sqs.receive_message(**which, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages"):
            for message in messages:
                bodies.append(message["Body"])
                self.sqs.delete_message(**which, ReceiptHandle=message["ReceiptHandle"])
        return bodies


class FaultInjector:
    """Injects the faults of a plan, each kind in its own thread, so that faults overlap.

    Attributes:
        happened: faults that really happened, by kind.
        killed: processes by function.
        dead: messages in the dead-letter queue before the emulator lost it.
        troubles: faults that could not be injected.
    """

    def __init__(
        self,
        stack: Stack,
        aws: Aws,
        plan: Plan,
        ledger: Ledger,
        unreadable: set[str],
        is_model_busy: Callable[[], bool],
        note: Callable[[str], None],
    ) -> None:
        self._stack = stack
        self._is_model_busy = is_model_busy
        self._note = note
        self._unreadable = unreadable  # messages that were made unreadable on purpose
        self._aws = aws
        self._plan = plan
        self._ledger = ledger
        self._stopped = Event()
        self._restarts = Lock()  # one restart at a time: stack.json has one writer
        self._faults: dict[str, Callable[[random.Random], bool]] = {
            "kill": self.kill,
            "cut": self.cut,
            "postgres": self.postgres,
            "emulator": self.emulator,
            "duplicate": self.duplicate,
            "reorder": self.reorder,
            "rollup": self.rollup,
            "unreadable": self.send_unreadable,
        }
        self._threads = [
            Thread(target=self._inject_all, args=(faults,), name=f"fault-{kind}", daemon=True)
            for kind, faults in plan.faults_by_kind.items()
        ]
        self.happened: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.dead: list[str] = []
        self.troubles: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for every fault of the plan; those still waiting for accepted requests happen now."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        self._stopped.set()

    def _inject_all(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            self._ledger.wait_for(fault.after)
            if self._inject(fault):
                self.happened[fault.kind] += 1
                self._note(f"{fault.kind} {self.happened[fault.kind]}, due at {fault.after}")
            elif not self._stopped.is_set():
                self.troubles.append(f"a fault that could not be injected: {fault}")

    def _inject(self, fault: Fault) -> bool:
        """Try until it happens, since other faults may interfere."""
        deadline = time.monotonic() + _INJECT_SECONDS
        while not self._stopped.is_set() and time.monotonic() < deadline:
            try:
                if self._faults[fault.kind](random.Random(fault.seed)):
                    return True
            except UNAVAILABLE:
                pass
            self._stopped.wait(_PAUSE_SECONDS)
        return False

    # ── Kinds of faults: each says whether it happened ────────────────────────────────────────────────────────────

    def kill(self, rng: random.Random) -> bool:
        """SIGKILL one or all processes of a function, mostly of a busy worker."""
        running = list(function_processes(self._stack))
        weights = {role: weight for role, weight in _KILLED_ROLES.items() if any(of == role for _, of in running)}
        if not weights:
            return False
        role = rng.choices(list(weights), weights=list(weights.values()))[0]
        kill_all = rng.random() < 0.25
        if role in {"worker", "foreground"} and not self._is_model_busy():
            return False
        pids = [pid for pid, of in running if of == role]
        return self._kill(role, pids if kill_all else [rng.choice(pids)])

    def cut(self, rng: random.Random) -> bool:
        """SIGKILL all processes that run something for clients that wait."""
        roles = rng.choices(list(_CUT_ROLES), weights=list(_CUT_ROLES.values()))[0]
        if not self._ledger.waiting or not self._is_model_busy():
            return False
        pids: dict[str, list[int]] = {role: [] for role in roles}
        for pid, role in function_processes(self._stack):
            pids.get(role, []).append(pid)
        if not all(pids.values()):
            return False
        killed = [self._kill(role, found) for role, found in pids.items()]
        return all(killed)

    def _kill(self, role: str, pids: Sequence[int]) -> bool:
        has_killed = False
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self._note(f"killed {role} {pid}")
            self.killed[role] += 1
            has_killed = True
        return has_killed

    def postgres(self, rng: random.Random) -> bool:
        """Crash the server; committed data survives."""
        with self._restarts:
            self._stack.restart_postgres("immediate")
        return True

    def emulator(self, rng: random.Random) -> bool:
        """Crash API, queue, schedules and all running functions; the queue is empty afterwards."""
        with self._restarts:
            self.collect_dead_letters()
            self._stack.restart_emulator()
        return True

    def duplicate(self, rng: random.Random) -> bool:
        """Send messages of requests again, finished or not, one to three times."""
        ids = self._ledger.request_ids()
        if not ids:
            return False
        chosen = [request_id for request_id in rng.choices(ids, k=10) for _ in range(rng.randint(1, 3))]
        self._aws.send([json.dumps({"request_id": request_id}) for request_id in chosen])
        return True

    def reorder(self, rng: random.Random) -> bool:
        """Take messages out of the queue, and send them in another order a little later."""
        held: list[dict[str, Any]] = []
        which = {"QueueUrl": self._aws.queue_url}
        for _ in range(3):
            received = self._aws.sqs.receive_message(**which, MaxNumberOfMessages=10, WaitTimeSeconds=0)
            held += received.get("Messages", ())
        bodies = [message["Body"] for message in held]
        shuffled = rng.sample(bodies, len(bodies))
        if len(bodies) > 1:
            self._stopped.wait(rng.uniform(0.0, 2.0))
        self._aws.send(shuffled)
        for message in held:
            self._aws.sqs.delete_message(**which, ReceiptHandle=message["ReceiptHandle"])
        return len(set(bodies)) > 1

    def rollup(self, rng: random.Random) -> bool:
        """Run every task that allows it twice concurrently."""
        tasks = ["recover", "usage", "stats", "audit"]
        finished: list[bool] = []

        def run() -> None:
            try:
                self._aws.invoke("rollup", {"tasks": rng.sample(tasks, len(tasks))})
                finished.append(True)
            except UNAVAILABLE:
                pass

        threads = [Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(finished) == 2

    def send_unreadable(self, rng: random.Random) -> bool:
        """Send a message that is not a request's."""
        body = rng.choice(("nonsense", "{", '{"request_id": "12"}', "[]")) + f" {rng.getrandbits(32):08x}"
        self._unreadable.add(body)
        self._aws.send([body])
        return True

    # ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def collect_dead_letters(self) -> None:
        self.dead += self._aws.dead_letters()


class RecoveryLoop:
    """Runs recovery every second instead of every minute, and ignores failures."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._stopped = Event()
        self._thread = Thread(target=self._recover, name="recovery", daemon=True)
        self.runs: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _recover(self) -> None:
        while not self._stopped.wait(1.0):
            try:
                self._aws.invoke("rollup", {"tasks": ["recover"]})
                self.runs["finished"] += 1
            except UNAVAILABLE:
                self.runs["failed"] += 1
