"""Images that requests refer to by the id of a file: the model gets them, whatever becomes of the file."""

import base64
from typing import Any

import pytest

from tests.support.files import OTHER_KEY, FileApi, fail
from tests.support.ledger import assert_books_balance
from tests.support.openai_api import PNG, Reply
from tests.support.service import Service

URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


@pytest.fixture(autouse=True)
def seeing(files: FileApi, service: Service) -> None:
    """The default model takes images."""
    service.act("model.set", model_id="nova-micro", image_tokens=10)


def respond(files: FileApi, file_id: Any, **more: Any) -> Reply:
    part = {"type": "input_image", "file_id": file_id, "detail": "low"} | more
    return files.api.respond([{"role": "user", "content": [{"type": "input_text", "text": "what?"}, part]}])


def chat(files: FileApi, file: Any) -> Reply:
    part = {"type": "file", "file": file}
    return files.api.chat([{"type": "text", "text": "what?"}, part])


def seen(files: FileApi) -> list[str]:
    """The images that the model got last."""
    return [image.url for message in files.api.model.claims[-1].input.messages for image in message.images]


def test_the_model_gets_the_image_and_the_request_keeps_it(files: FileApi, service: Service) -> None:
    file_id = files.made(PNG, "a.png", "vision")
    reply = respond(files, file_id)
    assert (reply.status, seen(files)) == (200, [URL])
    assert chat(files, {"file_id": file_id}).status == 200
    assert seen(files) == [URL]
    files.call("DELETE", f"/v1/files/{file_id}")
    again = files.api.respond("and now?", previous_response_id=reply.body["id"])
    assert (again.status, seen(files)) == (200, [URL])
    assert respond(files, file_id).status == 404
    assert_books_balance(service)


def test_an_image_of_the_purpose_user_data_will_do(files: FileApi) -> None:
    assert respond(files, files.made(PNG, "a.png", "user_data")).status == 200


def test_what_is_no_image_of_the_user_names_the_part(files: FileApi, service: Service) -> None:
    service.add_user("bob", OTHER_KEY)
    text = files.made(b"a text", "a.png", "user_data")
    lines = files.made(PNG, "a.png", "batch")
    large = files.made(PNG + bytes(4_000_000), "a.png", "vision")
    mine = files.made(PNG, "a.png", "vision")
    files.headers = {"x-api-key": OTHER_KEY}
    others = files.made(PNG, "a.png", "vision")
    cases = [
        (others, 404, "file_not_found"),
        ("file-" + "0" * 32, 404, "file_not_found"),
        ("nothing", 404, "file_not_found"),
        (text, 400, "file_refused"),
        (lines, 400, "file_refused"),
        (large, 400, "file_refused"),
    ]
    for file_id, status, code in cases:
        for reply, param in (
            (respond(files, file_id), "input[0].content[1].file_id"),
            (chat(files, {"file_id": file_id}), "messages[0].content[1].file.file_id"),
        ):
            assert (reply.status, reply.error["code"], reply.error["param"]) == (status, code, param), reply.text
    assert respond(files, mine, image_url=URL).error["param"] == "input[0].content[1].file_id"
    assert respond(files, 7).status == 400
    assert respond(files, None).status == 400
    for file in ({"file_data": URL}, {"file_id": mine, "filename": "a"}, {"file_id": 7}, {}):
        reply = chat(files, file)
        assert (reply.status, reply.error["param"]) == (400, "messages[0].content[1].file"), reply.text
    assert chat(files, "file").status == 400
    assert files.api.model.claims == []


def test_images_are_counted_too(files: FileApi) -> None:
    file_id = files.made(PNG, "a.png", "vision")
    asked = [{"role": "user", "content": [{"type": "input_image", "file_id": file_id}]}]
    counted = files.api.post("/v1/responses/input_tokens", {"input": asked})
    inline = [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]
    assert counted.body == files.api.post("/v1/responses/input_tokens", {"input": inline}).body
    files.call("DELETE", f"/v1/files/{file_id}")
    assert files.api.post("/v1/responses/input_tokens", {"input": asked}).status == 404


def test_a_request_has_so_many_images_and_each_is_read_once(files: FileApi, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = files.made(PNG + bytes(1_000_000), "a.png", "vision")
    client = fail(monkeypatch, "nothing")
    parts = [{"type": "input_image", "file_id": file_id}] * 100
    reply = files.api.respond([{"role": "user", "content": [dict(part) for part in parts]}])
    assert (reply.status, reply.error["sluice_code"]) == (400, "prompt_too_long")
    assert client.calls.count("get_object") == 1


def test_an_image_in_a_text_is_no_file(files: FileApi) -> None:
    """Only parts are looked at."""
    reply = files.api.respond("file-" + "0" * 32, metadata={"file_id": "file-" + "0" * 32})
    assert reply.status == 200


def test_a_key_that_may_not_read_sends_no_files(files: FileApi, service: Service) -> None:
    file_id = files.made(PNG, "a.png", "vision")
    service.owner.execute("UPDATE api_keys SET scopes = '{submit}'")
    assert respond(files, file_id).status == 403


def test_an_image_cannot_be_read_while_the_bucket_is_away(
    files: FileApi, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = files.made(PNG, "a.png", "vision")
    fail(monkeypatch, "get_object")
    reply = respond(files, file_id)
    assert (reply.status, reply.error["code"]) == (503, "storage_unavailable")
    assert service.rows("SELECT count(*) AS n FROM requests_all") == [{"n": 0}]
    assert respond(files, file_id).status == 200
