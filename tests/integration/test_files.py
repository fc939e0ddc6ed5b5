"""Answers that are files: from the model's server over the worker and the database to GET /results and /v1."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.db.ledger import Ledger
from sluice.domain.requests import Outcome, Settled
from sluice.domain.sizes import MAX_ANSWER_BYTES, MAX_FILE_BYTES
from sluice.messaging import Delivery
from sluice.services.process import Worker, WorkerSettings
from tests.support.functions import KEYED, Context, event, load
from tests.support.ledger import assert_books_balance, violations
from tests.support.openai_api import ARTIST, MP3, PNG, SPEAKER, Api, keyed
from tests.support.service import Service
from tests.unit.scripted_server import Reply, ScriptedServer

SETTINGS = WorkerSettings(max_result_bytes=1000, flush_seconds=0.0, retry_base_seconds=1, lease_margin_seconds=30)
OTHER_KEY = "sluice_" + "b" * 43
IMAGE = Reply(body={"data": [{"b64_json": base64.b64encode(PNG).decode()}]})
SPEECH = Reply(body=MP3, headers={"Content-Type": "audio/mpeg"})
TAG = f'"{hashlib.sha256(PNG).hexdigest()}"'


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def models(service: Service, server: ScriptedServer, alice: bytes) -> None:
    """A model that draws and one that speaks, on the scripted server."""
    for model in (ARTIST, SPEAKER):
        service.act("model.set", **model | {"endpoint": f"{server.url}/v1", "prices": {"prompt": "1"}})


def work(service: Service, *request_ids: UUID) -> None:
    """The worker with the real backend."""
    worker = Worker(
        ledger=service.ledger("worker"),
        queue=service.queue,
        backends={"openai": OpenAIBackend(str, 1000)},
        settings=SETTINGS,
        remaining_seconds=lambda: 30.0,
    )
    for claim in service.ledger("worker").claim(list(request_ids), 60):
        worker.run(claim)


def draw(service: Service, alice: bytes, prompt: str = "a zebra", **image: Any) -> UUID:
    """A request for an image that has ended."""
    request_id = service.submit(alice, prompt, model="artist", image=image)
    work(service, request_id)
    return request_id


def result(request_id: UUID | str, headers: Mapping[str, str] = KEYED) -> tuple[int, Mapping[str, str], bytes]:
    """GET /results: the status, the headers, and the bytes as API Gateway decodes them."""
    http, path = event("status"), f"/results/{request_id}"
    http["requestContext"]["http"] |= {"path": path, "method": "GET"}
    http |= {"rawPath": path, "headers": dict(headers), "queryStringParameters": None}
    answer = load("status.app").handler(http, Context())
    assert len(json.dumps(answer)) < MAX_ANSWER_BYTES
    body = answer.get("body") or ""
    return (
        answer["statusCode"],
        answer["headers"],
        (base64.b64decode(body) if answer["isBase64Encoded"] else body.encode()),
    )


# Storing --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("models")
def test_an_image_is_kept_with_its_result(service: Service, server: ScriptedServer, alice: bytes) -> None:
    server.replies(IMAGE)
    request_id = draw(service, alice, size="512x512")
    assert server.received[0].json == {
        "model": "artist",
        "prompt": "a zebra",
        "size": "512x512",
        "response_format": "b64_json",
    }
    (kept,) = service.rows(
        "SELECT b.content, b.mime_type, r.output, r.token_count, q.result_id = r.result_id AS is_its, q.reserved_tokens"
        " FROM binary_results b JOIN results r USING (result_id, request_id) JOIN requests q USING (request_id)"
    )
    assert (kept["content"], kept["mime_type"], kept["is_its"]) == (PNG, "image/png", True)
    assert kept["output"]["items"] == [
        {"type": "file", "mime_type": "image/png", "byte_length": len(PNG), "sha256": TAG.strip('"')}
    ]
    # Bytes + overhead + max_tokens_limit are reserved; a quarter of the bytes and max_tokens_default are booked.
    shown = service.status(alice, request_id)
    assert kept["reserved_tokens"] == 7 + 64 + 1024
    assert shown["usage"] == {"prompt_tokens": 2, "completion_tokens": 256, "total_tokens": 258}
    assert {name: shown[name] for name in ("status", "result", "result_type", "mime_type", "byte_length")} == {
        "status": "completed",
        "result": None,
        "result_type": "file",
        "mime_type": "image/png",
        "byte_length": len(PNG),
    }
    assert shown["result_url"] == f"/results/{request_id}"
    assert_books_balance(service)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(("reported", "charged"), [(1024, 1024), (1025, 1024), (8449, 1024), (0, 256)])
def test_an_image_never_counts_more_than_was_reserved(
    service: Service, server: ScriptedServer, alice: bytes, reported: int, charged: int
) -> None:
    usage = {"input_tokens": 3, "output_tokens": reported}
    server.replies(Reply(body={**IMAGE.body, "usage": usage}))
    shown = service.status(alice, draw(service, alice))
    assert (shown["usage"]["completion_tokens"], shown["status"]) == (charged, "completed")
    assert shown["usage"]["total_tokens"] <= shown["reserved_tokens"]
    assert_books_balance(service)


@pytest.mark.usefixtures("models")
def test_speech_is_charged_by_its_characters(service: Service, server: ScriptedServer, alice: bytes) -> None:
    server.replies(SPEECH)
    request_id = service.submit(alice, "grüße", model="speaker", speech={"voice": "alloy", "instructions": "Softly."})
    assert service.value("SELECT reserved_tokens FROM requests") == 7 + 7 + 64
    work(service, request_id)
    shown = service.status(alice, request_id)
    assert (shown["usage"]["prompt_tokens"], shown["usage"]["completion_tokens"]) == (5, 0)
    assert shown["cost"]["amount"] == "0.000005"
    assert shown["mime_type"] == "audio/mpeg"
    assert_books_balance(service)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("more", [0, 1])
def test_a_file_may_have_4_mib(service: Service, server: ScriptedServer, alice: bytes, deploy: Any, more: int) -> None:
    content = PNG + bytes(MAX_FILE_BYTES - len(PNG) + more)
    usage = {"input_tokens": 3, "output_tokens": 99}
    server.replies(Reply(body={"data": [{"b64_json": base64.b64encode(content).decode()}], "usage": usage}))
    request_id = draw(service, alice)
    shown = service.status(alice, request_id)
    assert shown["usage"]["total_tokens"] == 102, "what it used is charged in any case"
    deploy("status")
    status, _, body = result(request_id)
    if more:
        assert (shown["status"], shown["error"]["code"], status) == ("failed", "result_too_large", 404)
        assert service.value("SELECT count(*) FROM binary_results") == 0
    else:
        assert (shown["status"], status, body) == ("completed", 200, content)
    assert_books_balance(service)


@pytest.mark.usefixtures("models")
def test_what_is_no_file_fails(service: Service, server: ScriptedServer, alice: bytes) -> None:
    server.replies(Reply(body={"data": [{"url": "https://images.example/x.png"}]}))
    request_id = draw(service, alice)
    assert service.status(alice, request_id)["status"] == "queued"
    page = Reply(body=b"<!doctype html>", headers={"Content-Type": "audio/mpeg"})
    server.replies(page)
    spoken = service.submit(alice, "a", model="speaker", speech={"voice": "alloy"})
    work(service, spoken)
    assert service.status(alice, spoken)["queue"]["last_error"] == "model_bad_response"
    assert service.value("SELECT count(*) FROM binary_results") == 0
    assert_books_balance(service)


@pytest.mark.usefixtures("models")
def test_a_flush_that_is_sent_twice_keeps_one_file(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice, "a", model="artist", image={})
    (claim,) = service.claim(request_id)
    assert (claim["parameters"], claim["max_tokens_default"]) == ({"max_tokens": 1024}, 256)
    outcome = {
        "request_id": str(request_id),
        "attempt": 1,
        "outcome": "completed",
        "output": {
            "items": [{"type": "file", "mime_type": "image/png", "byte_length": len(PNG), "sha256": TAG.strip('"')}]
        },
        "content": base64.b64encode(PNG).decode(),
        "prompt_tokens": 1,
        "completion_tokens": 256,
    }
    for _ in range(2):
        (settled,) = service.settle(outcome)
        assert (settled["kind"], settled["status"]) == ("settled", "completed")
    assert service.value("SELECT count(*) FROM binary_results") == 1
    assert_books_balance(service)


@pytest.mark.usefixtures("models")
def test_each_file_is_settled_by_itself(service: Service, server: ScriptedServer, alice: bytes) -> None:
    """Others do not wait while megabytes are written."""
    calls: list[int] = []

    class Counting(Ledger):
        def settle(self, outcomes: Sequence[Outcome], actor: str = "worker") -> list[Settled]:
            calls.append(len(outcomes))
            return super().settle(outcomes, actor)

    server.replies(IMAGE, IMAGE, IMAGE)
    ids = [service.submit(alice, "a", model="artist", image={}) for _ in range(3)]
    worker = Worker(
        ledger=Counting(service.database("worker")),
        queue=service.queue,
        backends={"openai": OpenAIBackend(str, 1000)},
        settings=replace(SETTINGS, flush_seconds=0.5),
        remaining_seconds=lambda: 30.0,
    )
    report = worker.work([Delivery(str(each), json.dumps({"request_id": str(each)})) for each in ids])
    assert (calls, report.counts, report.failed_message_ids) == ([1, 1, 1], {"completed": 3}, [])
    assert all(outcome.content is None for outcome, _ in report.settled.values())


@pytest.mark.usefixtures("models")
def test_a_cancelled_request_keeps_no_file(service: Service, server: ScriptedServer, alice: bytes) -> None:
    server.replies(IMAGE)
    request_id = service.submit(alice, "a", model="artist", image={})
    (claim,) = service.ledger("worker").claim([request_id], 60)
    service.canceller().cancel(alice, request_id)
    Worker(
        ledger=service.ledger("worker"),
        queue=service.queue,
        backends={"openai": OpenAIBackend(str, 1000)},
        settings=SETTINGS,
        remaining_seconds=lambda: 30.0,
    ).run(claim)
    assert service.status(alice, request_id)["status"] == "cancelled"
    assert service.value("SELECT count(*) FROM binary_results") == 0
    assert_books_balance(service)


@pytest.mark.usefixtures("models")
def test_a_file_that_is_missing_or_left_over_is_a_violation(
    service: Service, server: ScriptedServer, alice: bytes
) -> None:
    server.replies(IMAGE, IMAGE)
    first, second = draw(service, alice), draw(service, alice)
    service.owner.execute("DELETE FROM binary_results WHERE request_id = %s", (first,))
    service.owner.execute("UPDATE binary_results SET request_id = %s", (UUID(int=1),))
    found = {(each["request_id"], each["expected"][:4]) for each in violations(service)}
    assert found == {(str(first), "file"), (str(second), "file"), (str(UUID(int=1)), "no f")}


@pytest.mark.usefixtures("models")
def test_a_file_is_no_result_by_itself(service: Service, server: ScriptedServer, alice: bytes) -> None:
    server.replies(IMAGE)
    request_id = draw(service, alice)
    service.owner.execute("DELETE FROM results")
    found = [(each["request_id"], each["expected"][:4]) for each in violations(service)]
    assert sorted(found) == [(str(request_id), "no f"), (str(request_id), "resu")]


# GET /results ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("models")
def test_a_file_whole_and_in_parts(service: Service, server: ScriptedServer, alice: bytes, deploy: Any) -> None:
    server.replies(IMAGE)
    request_id = draw(service, alice)
    deploy("status")
    status, headers, body = result(request_id)
    assert (status, body) == (200, PNG)
    assert headers == {
        "Content-Type": "image/png",
        "Content-Length": str(len(PNG)),
        "Content-Disposition": f'attachment; filename="{request_id}.png"',
        "Accept-Ranges": "bytes",
        "ETag": TAG,
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    status, headers, body = result(request_id, KEYED | {"range": "bytes=8-15"})
    assert (status, body, headers["Content-Range"]) == (206, PNG[8:16], f"bytes 8-15/{len(PNG)}")
    assert (headers["Content-Length"], headers["ETag"]) == ("8", TAG)
    assert result(request_id, KEYED | {"range": "bytes=-4"})[2] == PNG[-4:]
    status, headers, body = result(request_id, KEYED | {"range": f"bytes={len(PNG)}-"})
    assert (status, headers["Content-Type"], headers["Content-Range"]) == (
        416,
        "application/problem+json",
        f"bytes */{len(PNG)}",
    )
    assert (json.loads(body)["code"], json.loads(body)["byte_length"]) == ("range_not_satisfiable", len(PNG))
    for several in ("bytes=0-1,3-4", "bytes=x", "lines=0-1"):
        assert result(request_id, KEYED | {"range": several})[::2] == (200, PNG)
    assert result(request_id, KEYED | {"range": "bytes=0-1", "if-range": TAG})[0] == 206
    assert result(request_id, KEYED | {"range": "bytes=0-1", "if-range": '"another"'})[::2] == (200, PNG)
    assert result(request_id, KEYED | {"range": "bytes=0-1", "if-match": TAG})[0] == 206
    status, _, body = result(request_id, KEYED | {"range": "bytes=0-1", "if-match": '"another"'})
    assert (status, json.loads(body)["code"]) == (412, "etag_differs")
    status, headers, body = result(request_id, KEYED | {"if-none-match": TAG, "range": "bytes=0-1"})
    assert (status, headers["ETag"], body) == (304, TAG, b"")


def test_other_answers_have_their_own_types(service: Service, deploy: Any, alice: bytes) -> None:
    def answered(output: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        request_id = service.submit(alice, "a")
        (claim,) = service.claim(request_id)
        tokens = {"outcome": "completed", "prompt_tokens": 1, "completion_tokens": 1}
        service.settle({"request_id": str(request_id), "attempt": claim["attempt"], "output": output, **tokens})
        return result(request_id)

    def said(text: str) -> dict[str, Any]:
        return {"items": [{"type": "message", "role": "assistant", "content": [{"type": "text", "text": text}]}]}

    deploy("status")
    status, headers, body = answered(said("größe <script>"))
    assert (status, headers["Content-Type"], body) == (200, "text/plain; charset=utf-8", "größe <script>".encode())
    assert headers["Content-Length"] == str(len(body))
    _, headers, body = answered(said('{"a": 1}') | {"result_type": "json"})
    assert (headers["Content-Type"], body) == ("application/json", b'{"a": 1}')
    _, headers, body = answered({"items": [{"type": "embedding", "vector": "AAAAPw=="}]})
    assert (headers["Content-Type"], json.loads(body)) == ("application/json", {"embeddings": ["AAAAPw=="]})
    _, headers, body = answered(said(""))
    assert (headers["Content-Length"], body) == ("0", b"")
    assert headers["Content-Disposition"].endswith('.txt"')


@pytest.mark.usefixtures("models")
def test_who_gets_no_result(service: Service, server: ScriptedServer, alice: bytes, deploy: Any) -> None:
    service.add_user("bob", OTHER_KEY)
    server.replies(IMAGE, Reply(400, {}))
    drawn, failed = draw(service, alice), draw(service, alice)
    waiting = service.submit(alice, "a", model="artist", image={})
    cancelled = service.submit(alice, "a", model="artist", image={})
    service.canceller().cancel(alice, cancelled)
    deploy("status")
    for headers, request_id, status, code in (
        (keyed(OTHER_KEY), drawn, 404, "request_not_found"),
        ({}, drawn, 401, "key_missing"),
        (KEYED, UUID(int=1), 404, "request_not_found"),
        (KEYED, "x", 404, "request_not_found"),
        (KEYED, failed, 404, "result_not_found"),
        (KEYED, cancelled, 404, "result_not_found"),
        (KEYED, waiting, 409, "result_not_ready"),
    ):
        answered, given, body = result(request_id, headers)
        assert (answered, json.loads(body)["code"]) == (status, code)
        assert given["Cache-Control"] == "no-store"
        assert given.get("Retry-After") == ("1" if status == 409 else None)
    service.owner.execute("UPDATE api_keys SET scopes = '{submit}'")
    assert result(drawn)[0] == 403


# /generate ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"model": "artist"}, "model_kind_differs"),
        ({"model": "speaker"}, "model_kind_differs"),
        ({"image": {}}, "model_kind_differs"),
        ({"model": "speaker", "image": {}}, "model_kind_differs"),
        ({"model": "artist", "speech": {"voice": "alloy"}}, "model_kind_differs"),
        ({"model": "speaker", "speech": {}}, "invalid_input"),
        ({"model": "artist", "image": {"n": 2}}, "invalid_input"),
        ({"model": "artist", "image": {"size": "huge"}}, "invalid_input"),
        ({"model": "artist", "image": {}, "speech": {"voice": "alloy"}}, "invalid_input"),
        ({"model": "artist", "image": {}, "parameters": {"max_tokens": 1}}, "invalid_input"),
        ({"model": "artist", "image": {}, "schema": {"type": "object"}}, "invalid_input"),
        ({"model": "artist", "image": {}, "models": ["speaker"]}, "model_kind_differs"),
    ],
)
def test_what_generate_refuses(service: Service, deploy: Any, body: dict[str, Any], code: str) -> None:
    deploy("submit")
    answer = load("submit.app").handler(
        event("submit", headers=KEYED, body=json.dumps({"prompt": "a"} | body)), Context()
    )
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (422, code)
    assert service.value("SELECT count(*) FROM requests") == 0


# /v1 ------------------------------------------------------------------------------------------------------------------


def test_a_file_of_4_mib_for_openais_clients(
    api: Api, service: Service, server: ScriptedServer, alice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the answer of the foreground function, and over HTTP, it would be too large with anything more."""
    content = PNG + bytes(MAX_FILE_BYTES - len(PNG))
    api.backends = {"openai": OpenAIBackend(str, 1000)}
    for model in (ARTIST, SPEAKER):
        service.act("model.set", model_id=model["model_id"], endpoint=f"{server.url}/v1")
    server.replies(
        Reply(body={"data": [{"b64_json": base64.b64encode(content).decode()}]}),
        Reply(body=content, headers={"Content-Type": "audio/pcm"}),
    )
    drawn = api.post("/v1/images/generations", {"model": "artist", "prompt": "a"})
    assert drawn.status == 200
    assert base64.b64decode(drawn.body["data"][0]["b64_json"]) == content
    spoken = api.post("/v1/audio/speech", {"model": "speaker", "input": "a", "voice": "alloy"})
    assert (spoken.status, spoken.headers["Content-Type"]) == (200, "application/octet-stream")
    assert spoken.content == content
    assert_books_balance(service)


# Erasing --------------------------------------------------------------------------------------------------------------


def test_an_erased_file_is_gone(api: Api, service: Service, alice: bytes, deploy: Any) -> None:
    made = api.post("/v1/images/generations", {"model": "artist", "prompt": "zebra"})
    assert service.value("SELECT sum(octet_length(content)) FROM binary_results") == len(PNG)
    assert api.call("DELETE", f"/v1/responses/{made.request_id}").status == 404
    assert api.call("DELETE", f"/v1/responses/resp_{made.request_id.hex}").status == 200
    assert service.value("SELECT sum(octet_length(content)) FROM binary_results") == 0
    assert service.value("SELECT count(*) FROM results WHERE output::text LIKE '%%sha256%%'") == 0
    deploy("status")
    status, _, body = result(made.request_id, KEYED | {"if-none-match": TAG})
    assert (status, json.loads(body)["code"]) == (404, "result_not_found")
    assert_books_balance(service)


def test_a_file_that_is_given_again(api: Api, service: Service, alice: bytes, deploy: Any) -> None:
    """By the answer cache; an image is a matter of chance, and is found again only where that does not matter."""
    spoken = {"model": "speaker", "input": "zebra", "voice": "alloy", "cache": {"max_age": 60}}
    first, again = api.post("/v1/audio/speech", spoken), api.post("/v1/audio/speech", spoken)
    assert (first.content, again.content) == (MP3, MP3)
    assert len(api.model.claims) == 1
    drawn = {"model": "artist", "prompt": "zebra", "cache": {"max_age": 60}}
    for _ in range(2):
        assert api.post("/v1/images/generations", drawn).status == 200
    assert len(api.model.claims) == 3
    drawn["cache"] = {"max_age": 60, "sampled": True}
    for _ in range(2):
        assert base64.b64decode(api.post("/v1/images/generations", drawn).body["data"][0]["b64_json"]) == PNG
    assert len(api.model.claims) == 4
    assert_books_balance(service)
    # Whoever erases the one erases what both were answered.
    assert api.call("DELETE", f"/v1/responses/resp_{first.request_id.hex}").status == 200
    deploy("status")
    for reply in (first, again):
        status, _, body = result(reply.request_id)
        assert (status, json.loads(body)["code"]) == (404, "result_not_found")
    assert_books_balance(service)
