"""The hand: for each kind of fault a thread that strikes when the plan says so, and counts what really happened."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from threading import Event, Lock, Thread
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.errors import LocalError
from local.stack import Stack
from tests.chaos.load import Ledger
from tests.chaos.plan import Plan, Strike

# What any call of the hand's may meet while others of its faults are at work.
AWAY = (BotoCoreError, ClientError, LocalError)

_AGAIN_SECONDS = 0.1
_STRIKE_SECONDS = 60.0  # for one fault to find what it needs: a process to kill, messages to reorder
_KILLED_ROLES = {"worker": 12, "submit": 4, "rollup": 3, "status": 1}


class Aws:
    """The emulator's clients, made once: making one costs more than a call."""

    def __init__(self, stack: Stack) -> None:
        self._functions = stack.info.functions
        self._lambda = stack.client("lambda")
        self.sqs = stack.client("sqs")
        self.queue_url = stack.info.queue_url
        self.dead_letter_queue_url = stack.info.dead_letter_queue_url

    def invoke(self, role: str, payload: object) -> Any:
        """What a function returned. LocalError if it failed."""
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
        """Takes all messages out of the dead-letter queue."""
        bodies: list[str] = []
        which = {"QueueUrl": self.dead_letter_queue_url}
        while messages := self.sqs.receive_message(**which, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages"):
            for message in messages:
                bodies.append(message["Body"])
                self.sqs.delete_message(**which, ReceiptHandle=message["ReceiptHandle"])
        return bodies


class Hand:
    """Strikes as the plan says, each kind in a thread of its own, so that faults meet.

    Attributes:
        happened: faults by kind: those that really were.
        killed: processes by their function.
        dead: what was in the dead-letter queue before it was lost with the emulator.
        troubles: faults that could not be brought about.
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
        self._unreadable = unreadable  # the messages that were put into the queue to be that
        self._aws = aws
        self._plan = plan
        self._ledger = ledger
        self._stopped = Event()
        self._restarts = Lock()  # one thing is restarted at a time: stack.json has one writer
        self._faults: dict[str, Callable[[random.Random], bool]] = {
            "kill": self.kill,
            "postgres": self.postgres,
            "emulator": self.emulator,
            "duplicate": self.duplicate,
            "reorder": self.reorder,
            "rollup": self.rollup,
            "unreadable": self.send_unreadable,
        }
        self._threads = [
            Thread(target=self._strike_all, args=(strikes,), name=f"hand-{kind}", daemon=True)
            for kind, strikes in plan.strikes.items()
        ]
        self.happened: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.dead: list[str] = []
        self.troubles: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until every fault of the plan has been; those whose requests were never accepted come now."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        self._stopped.set()

    def _strike_all(self, strikes: Sequence[Strike]) -> None:
        for strike in strikes:
            self._ledger.wait_for(strike.after)
            if self._strike(strike):
                self.happened[strike.kind] += 1
                self._note(f"{strike.kind} {self.happened[strike.kind]}, due at {strike.after}")
            elif not self._stopped.is_set():
                self.troubles.append(f"a fault that could not be brought about: {strike}")

    def _strike(self, strike: Strike) -> bool:
        """Try until it happens, since others of the faults may be in its way."""
        deadline = time.monotonic() + _STRIKE_SECONDS
        while not self._stopped.is_set() and time.monotonic() < deadline:
            try:
                if self._faults[strike.kind](random.Random(strike.seed)):
                    return True
            except AWAY:
                pass
            self._stopped.wait(_AGAIN_SECONDS)
        return False

    # ── Kinds of faults: each says whether it happened ────────────────────────────────────────────────────────────

    def kill(self, rng: random.Random) -> bool:
        """SIGKILL of a function's process, sometimes of all of its processes; mostly of a worker in the middle of it."""
        running = list(self._function_processes())
        weights = {role: weight for role, weight in _KILLED_ROLES.items() if any(of == role for _, of in running)}
        if not weights:
            return False
        role = rng.choices(list(weights), weights=list(weights.values()))[0]
        everyone = rng.random() < 0.25
        if role == "worker" and not self._is_model_busy():
            return False
        pids = [pid for pid, of in running if of == role]
        is_hit = False
        for pid in pids if everyone else [rng.choice(pids)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self._note(f"killed {role} {pid}")
            self.killed[role] += 1
            is_hit = True
        return is_hit

    def postgres(self, rng: random.Random) -> bool:
        """A crash of the server; what was committed is there when it is back."""
        with self._restarts:
            self._stack.restart_postgres("immediate")
        return True

    def emulator(self, rng: random.Random) -> bool:
        """A crash of API, queue, schedules and all running functions; the queue is empty when it is back."""
        with self._restarts:
            self.collect_dead_letters()
            self._stack.restart_emulator()
        return True

    def duplicate(self, rng: random.Random) -> bool:
        """Messages of requests, finished or not, once more, and once more."""
        ids = self._ledger.request_ids()
        if not ids:
            return False
        chosen = [request_id for request_id in rng.choices(ids, k=10) for _ in range(rng.randint(1, 3))]
        self._aws.send([json.dumps({"request_id": request_id}) for request_id in chosen])
        return True

    def reorder(self, rng: random.Random) -> bool:
        """Messages taken out of the queue, kept for a while, and sent again in another order."""
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
        """Every task that may run twice at once, twice at once."""
        tasks = ["recover", "usage", "stats", "audit"]
        finished: list[bool] = []

        def run() -> None:
            try:
                self._aws.invoke("rollup", {"tasks": rng.sample(tasks, len(tasks))})
                finished.append(True)
            except AWAY:
                pass

        threads = [Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(finished) == 2

    def send_unreadable(self, rng: random.Random) -> bool:
        """A message that is none of ours."""
        body = rng.choice(("nonsense", "{", '{"request_id": "12"}', "[]")) + f" {rng.getrandbits(32):08x}"
        self._unreadable.add(body)
        self._aws.send([body])
        return True

    # ── What they need ────────────────────────────────────────────────────────────────────────────────────────────

    def collect_dead_letters(self) -> None:
        self.dead += self._aws.dead_letters()

    def _function_processes(self) -> Iterator[tuple[int, str]]:
        """The running functions: process id and role. The emulator names a folder of theirs for each."""
        emulator = self._stack.emulator.process
        if emulator is None:
            return
        listing = subprocess.run(
            ["ps", "-axo", "pid=,ppid=,command="], capture_output=True, text=True, check=True, env={"PATH": os.defpath}
        )
        names = {f"-{name}-": role for role, name in self._stack.info.functions.items()}
        for line in listing.stdout.splitlines():
            pid, parent, command = line.split(maxsplit=2)
            if int(parent) == emulator.pid:
                yield from ((int(pid), role) for name, role in names.items() if name in command)


class Sweeper:
    """Runs the sweep every second, as its schedule does every minute, and does not mind when it fails."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._stopped = Event()
        self._thread = Thread(target=self._sweep, name="sweeper", daemon=True)
        self.runs: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _sweep(self) -> None:
        while not self._stopped.wait(1.0):
            try:
                self._aws.invoke("rollup", {"tasks": ["recover"]})
                self.runs["finished"] += 1
            except AWAY:
                self.runs["failed"] += 1
