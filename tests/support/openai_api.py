"""The API of OpenAI's clients as they see it: the handler, a foreground function in this process, and a scripted model."""

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sluice import bootstrap
from sluice.backends.protocol import Backend
from sluice.db.ledger import Ledger
from sluice.domain.documents import Output, OutputEmbedding, OutputFile
from sluice.domain.requests import Claim, Completion
from sluice.services.process import Worker, WorkerSettings
from sluice.services.wait import wait_until_ended
from tests.support.functions import KEYED, Context, event, load
from tests.support.service import Service

Json = dict[str, Any]
Runner = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
SETTINGS = WorkerSettings(max_result_bytes=100_000, flush_seconds=0.0, retry_base_seconds=1, lease_margin_seconds=30)
EMBEDDER: Json = {
    "model_id": "embedder",
    "backend": "openai",
    "backend_model": "embedder",
    "endpoint": "http://127.0.0.1:1/v1",
    "kind": "embedding",
}
ARTIST = EMBEDDER | {"model_id": "artist", "backend_model": "artist", "kind": "image"}
SPEAKER = EMBEDDER | {"model_id": "speaker", "backend_model": "speaker", "kind": "speech"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
MP3 = b"ID3" + bytes(range(256))
MINIMAL: dict[str, Json] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/responses": {"input": "hello"},
    "/v1/embeddings": {"model": "embedder", "input": "hello"},
    "/v1/images/generations": {"model": "artist", "prompt": "hello"},
    "/v1/audio/speech": {"model": "speaker", "input": "hello", "voice": "alloy"},
}
"""A body for each route that asks a model."""


@dataclass
class Model:
    """Answers as scripted, one answer after the other, then with "an answer", or an empty object where it must be JSON;
    embeds with the same vector, and draws and speaks the same file."""

    script: list[Output | Exception] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    tokens: tuple[int, int] = (7, 3)

    def says(self, *answers: Output | Exception | str) -> None:
        self.script += [Output.of_text(each, "stop") if isinstance(each, str) else each for each in answers]

    def complete(self, claim: Claim, timeout: float) -> Completion:
        self.claims.append(claim)
        if claim.kind == "embedding":
            vectors = tuple(OutputEmbedding(vector="AAAAPwAAgL4=") for _ in claim.input.messages)
            return Completion(Output(items=vectors), self.tokens[0], 0)
        if claim.kind in ("image", "speech"):
            content, mime_type = (PNG, "image/png") if claim.kind == "image" else (MP3, "audio/mpeg")
            return Completion(Output(items=(OutputFile.of(content, mime_type),)), *self.tokens, content=content)
        usual = "an answer" if claim.input.response_format is None else "{}"
        said = self.script.pop(0) if self.script else Output.of_text(usual, "stop")
        if isinstance(said, Exception):
            raise said
        return Completion(said, *self.tokens)


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def content(self) -> bytes:
        """The bytes of an answer that is no text."""
        return base64.b64decode(self.text)

    @property
    def error(self) -> Json:
        error: Json = self.body["error"]
        return error

    @property
    def events(self) -> list[Any]:
        """The data of a stream's events; [DONE] is a text."""
        lines = (line.removeprefix("data: ") for line in self.text.split("\n") if line.startswith("data: "))
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def request_id(self) -> UUID:
        return UUID(self.headers["x-request-id"])


class Api:
    """The deployed function openai.

    Attributes:
        runner: what hands a claim to the foreground function; replaced where that is to fail.
        backends: by name; replaced where a real one is to be called.
    """

    def __init__(self, service: Service, sqs: Any) -> None:
        self.service, self.sqs = service, sqs
        self.model = Model()
        self.runner: Runner = self.run
        self.runs: list[Mapping[str, Any]] = []
        self.backends: Mapping[str, Backend] = {"bedrock": self.model, "openai": self.model}

    def hand_over(self, claim: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """As LambdaRunner; what it takes and gives goes over the wire."""
        self.runs.append(claim)
        return self.runner(json.loads(json.dumps(claim)))

    def run(self, claim: Mapping[str, Any]) -> Mapping[str, Any]:
        """The foreground function."""
        done: Mapping[str, Any] = self._worker_handler("foreground", {"claim": claim})
        return done

    def work(self) -> int:
        """The worker function, with all messages of the queue; returns how many there were."""
        url = bootstrap.settings().queue_url
        found = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        records = [{"messageId": each["MessageId"], "body": each["Body"]} for each in found]
        if records:
            assert self._worker_handler("worker", {"Records": records}) == {"batchItemFailures": []}
        return len(records)

    def _worker_handler(self, role: str, given: Json) -> Any:
        def worker(remaining_seconds: Callable[[], float]) -> Worker:
            return Worker(
                ledger=Ledger(self.service.database(role)),
                queue=bootstrap.queue(),
                backends=self.backends,
                webhooks=bootstrap.webhook_queue(),
                settings=SETTINGS,
                remaining_seconds=remaining_seconds,
            )

        kept, bootstrap.worker = bootstrap.worker, worker
        try:
            return json.loads(json.dumps(load("worker.app").handler(given, Context())))
        finally:
            bootstrap.worker = kept

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Reply:
        """A call as API Gateway passes it on; a body that is no text is sent as JSON."""
        http = event("openai-chat")
        http["requestContext"]["http"] |= {"path": path, "method": method}
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        http |= {"rawPath": path, "headers": KEYED | dict(headers or {}), "body": text}
        http |= {"queryStringParameters": dict(query) if query else None} | changes
        answer = load("openai.app").handler(http, Context())
        return Reply(answer["statusCode"], answer["headers"], answer["body"])

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        return self.call("POST", path, body, headers)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Reply:
        return self.call("GET", path, query=query)

    def chat(self, content: Any = "hello", headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]} | more, headers)

    def respond(self, asked: Any = "hello", headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        return self.post("/v1/responses", {"input": asked} | more, headers)

    def embed(self, asked: Any = "hello", headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        return self.post("/v1/embeddings", {"model": "embedder", "input": asked} | more, headers)


def wait_a_moment(ledger: Ledger, request_id: UUID, deadline: float) -> bool:
    """Instead of wait_until_ended: nobody waits long in tests."""
    return wait_until_ended(ledger, request_id, min(deadline, time.monotonic() + 0.3))


def keyed(key: str) -> dict[str, str]:
    """The headers of another key."""
    return {"x-api-key": key}


def every_text(service: Service) -> Iterator[str]:
    """All rows of all tables, as text."""
    tables = service.rows(
        "SELECT c.oid::regclass::text AS name FROM pg_class c"
        " WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind = 'r'"
    )
    for table in tables:
        for row in service.rows(f"SELECT t::text AS line FROM {table['name']} AS t"):
            yield f"{table['name']}: {row['line']}"


def tables_with(service: Service, text: str) -> list[str]:
    """The rows that have a text somewhere."""
    return [line for line in every_text(service) if text in line]
