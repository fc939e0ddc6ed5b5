"""POST /v1/images/generations and POST /v1/audio/speech, as OpenAI's clients call them."""

import base64
from typing import Any

import pytest

from tests.support.ledger import assert_books_balance
from tests.support.openai_api import MP3, PNG, Api
from tests.support.service import Service


def test_an_image_for_openais_clients(api: Api, service: Service, alice: bytes) -> None:
    reply = api.post("/v1/images/generations", {"model": "artist", "prompt": "a", "size": "512x512", "quality": "auto"})
    assert reply.status == 200
    assert base64.b64decode(reply.body["data"][0]["b64_json"]) == PNG
    assert reply.body | {"created": 0, "data": []} == {
        "created": 0,
        "data": [],
        "output_format": "png",
        "size": "512x512",
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"text_tokens": 7, "image_tokens": 0},
            "output_tokens": 3,
            "total_tokens": 10,
        },
    }
    assert "content" not in api.runs[0]
    response = api.get(f"/v1/responses/resp_{reply.request_id.hex}").body
    assert (response["status"], response["output"]) == ("completed", [])
    assert_books_balance(service)


def test_speech_for_openais_clients(api: Api, service: Service, alice: bytes) -> None:
    body = {"model": "speaker", "input": "hello", "voice": "alloy", "response_format": "mp3", "stream_format": "audio"}
    reply = api.post("/v1/audio/speech", body)
    assert (reply.status, reply.headers["Content-Type"], reply.content) == (200, "audio/mpeg", MP3)
    assert api.model.claims[0].input.speech is not None
    assert api.model.claims[0].input.speech.to_json() == {"voice": "alloy", "response_format": "mp3"}
    assert_books_balance(service)


@pytest.mark.parametrize(
    ("path", "changes", "code", "param"),
    [
        ("images/generations", {"n": 2}, "unsupported_parameter", "n"),
        ("images/generations", {"response_format": "url"}, "unsupported_parameter", "response_format"),
        ("images/generations", {"stream": True}, "unsupported_parameter", "stream"),
        ("images/generations", {"style": "vivid"}, "unsupported_parameter", "style"),
        ("images/generations", {"moderation": "low"}, "unsupported_parameter", "moderation"),
        ("images/generations", {"output_compression": 50}, "unsupported_parameter", "output_compression"),
        ("images/generations", {"output_format": "gif"}, "invalid_value", "output_format"),
        ("images/generations", {"prompt": ""}, "empty_string", "prompt"),
        ("images/generations", {"no_such": 1}, "unknown_parameter", "no_such"),
        ("audio/speech", {"stream_format": "sse"}, "unsupported_parameter", "stream_format"),
        ("audio/speech", {"response_format": "midi"}, "invalid_value", "response_format"),
        ("audio/speech", {"voice": None}, "missing_required_parameter", "voice"),
        ("audio/speech", {"speed": 5}, "number_above_max_value", "speed"),
        ("audio/speech", {"input": None}, "missing_required_parameter", "input"),
    ],
)
def test_what_is_refused_by_name(
    api: Api, service: Service, alice: bytes, path: str, changes: dict[str, Any], code: str, param: str
) -> None:
    bodies = {
        "images/generations": {"model": "artist", "prompt": "a"},
        "audio/speech": {"model": "speaker", "input": "a", "voice": "alloy"},
    }
    reply = api.post(f"/v1/{path}", bodies[path] | changes)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, code, param)
    assert service.value("SELECT count(*) FROM requests") == 0
