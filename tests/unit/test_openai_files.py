"""The OpenAI-compatible backend: answers that are files, images and speech."""

import base64
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.files import audio_type, read_image
from sluice.backends.openai import OpenAIBackend
from sluice.backends.parts import UnreadableError
from sluice.domain.documents import ImageOptions, Input, Message, OutputFile, SpeechOptions, TextPart
from sluice.domain.files import FILE_TYPES
from sluice.domain.requests import Claim
from sluice.domain.sizes import MAX_FILE_BYTES
from tests.support.openai_api import MP3, PNG
from tests.support.openai_backend import PATIENT, PROMPT, WORDS, claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer

JPEG = b"\xff\xd8\xff\xe0" + bytes(64)
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(64)
GIF = b"GIF89a" + bytes(64)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
PAGE = b"<!DOCTYPE html><html><body>words of the model</body></html>"


def drawn(content: bytes = PNG, **changes: Any) -> dict[str, Any]:
    """An answer with an image; changes replace its members."""
    return {"created": 1, "data": [{"b64_json": base64.b64encode(content).decode()}]} | changes


def audio(content: bytes = MP3, kind: str = "audio/mpeg", status: int = 200) -> Reply:
    return Reply(status, content, {"Content-Type": kind})


@pytest.fixture
def image(server: ScriptedServer) -> Claim:
    return claim(server, kind="image", parameters={"max_tokens": 1000}, max_tokens_default=600)


@pytest.fixture
def speech(server: ScriptedServer) -> Claim:
    spoken = Input.of_prompt(PROMPT).model_copy(update={"speech": SpeechOptions(voice="alloy")})
    return claim(server, kind="speech", input=spoken, parameters={})


# What is asked --------------------------------------------------------------------------------------------------------


def test_an_image_is_asked_for_in_base64(server: ScriptedServer, backend: OpenAIBackend, image: Claim) -> None:
    options = ImageOptions(size="512x512", quality="high", background="opaque", output_format="png")
    server.replies(Reply(body=drawn()), Reply(body=drawn()), Reply(body=drawn()))
    backend.complete(image, PATIENT)
    backend.complete(replace(image, input=image.input.model_copy(update={"image": options})), PATIENT)
    backend.complete(replace(image, backend_model="gpt-image-1"), PATIENT)
    assert {request.path for request in server.received} == {"/v1/images/generations"}
    assert [request.json for request in server.received] == [
        {"model": "org/small-1b", "prompt": PROMPT, "response_format": "b64_json"},
        {"model": "org/small-1b", "prompt": PROMPT, "response_format": "b64_json"} | options.to_json(),
        {"model": "gpt-image-1", "prompt": PROMPT},
    ]


def test_speech_is_asked_for_with_its_voice(server: ScriptedServer, backend: OpenAIBackend, speech: Claim) -> None:
    options = SpeechOptions(voice="coral", response_format="wav", speed=1.5, instructions="Whisper.")
    server.replies(audio(), audio())
    backend.complete(speech, PATIENT)
    backend.complete(replace(speech, input=speech.input.model_copy(update={"speech": options})), PATIENT)
    assert {request.path for request in server.received} == {"/v1/audio/speech"}
    assert [request.json for request in server.received] == [
        {"model": "org/small-1b", "input": PROMPT, "voice": "alloy"},
        {"model": "org/small-1b", "input": PROMPT} | options.to_json(),
    ]


@pytest.mark.parametrize("kind", ["image", "speech"])
@pytest.mark.parametrize(
    "messages",
    [
        (),
        (Message(role="user", content=()),),
        (Message(role="user", content=(TextPart(text=""),)),),
        (Message(role="user", content=(TextPart(text="a"),)),) * 2,
    ],
)
def test_what_is_not_one_text_is_refused(
    server: ScriptedServer, backend: OpenAIBackend, image: Claim, speech: Claim, kind: str, messages: Any
) -> None:
    asked = image if kind == "image" else speech
    asked = replace(asked, input=asked.input.model_copy(update={"messages": messages}))
    assert failure(backend, asked).code == "model_rejected"
    assert server.received == []


def test_speech_needs_a_voice(server: ScriptedServer, backend: OpenAIBackend, speech: Claim) -> None:
    assert failure(backend, replace(speech, input=Input.of_prompt(PROMPT))).code == "model_rejected"


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said", "asked", "mime_type"),
    [
        (PNG, None, None, "image/png"),
        (JPEG, None, None, "image/jpeg"),
        (WEBP, None, None, "image/webp"),
        (PNG, None, "png", "image/png"),
        (JPEG, None, "jpeg", "image/jpeg"),
        (JPEG, "jpg", "jpeg", "image/jpeg"),
        # The server's word counts before what was asked for.
        (PNG, "PNG", "webp", "image/png"),
    ],
)
def test_an_image_and_its_type(
    server: ScriptedServer,
    backend: OpenAIBackend,
    image: Claim,
    content: bytes,
    said: str | None,
    asked: str | None,
    mime_type: str,
) -> None:
    server.replies(Reply(body=drawn(content) | ({"output_format": said} if said else {})))
    options = {"image": ImageOptions(output_format=asked)}
    found = backend.complete(replace(image, input=image.input.model_copy(update=options)), PATIENT)
    assert found.content == content
    assert found.output.file == OutputFile(
        mime_type=mime_type, byte_length=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    assert found.output.text == ""


BAD_IMAGES: list[Any] = [
    {"data": None},
    {"data": []},
    {"data": [None]},
    {"data": "x"},
    {"data": [{}]},
    # Nothing is fetched.
    {"data": [{"url": "https://images.example/words of the model.png"}]},
    {"data": [{"b64_json": None, "url": "https://images.example/x.png"}]},
    {"data": [{"b64_json": ""}]},
    {"data": [{"b64_json": "no base64!"}]},
    {"data": [{"b64_json": "AAA"}]},
    {"data": [{"b64_json": "äöü"}]},
    drawn(GIF),
    drawn(SVG),
    drawn(PAGE),
    drawn(b"RIFF\x10\x00\x00\x00WAVE"),
    # Not what it calls itself, or was to be.
    drawn(JPEG, output_format="png"),
    drawn(PNG, output_format="svg"),
    drawn(PNG, output_format=5),
    drawn(WEBP),
]


@pytest.mark.parametrize("body", BAD_IMAGES)
def test_other_answers_are_bad_and_tell_their_tokens(
    server: ScriptedServer, backend: OpenAIBackend, image: Claim, body: Any
) -> None:
    asked = replace(image, input=image.input.model_copy(update={"image": ImageOptions(output_format="png")}))
    server.replies(Reply(body=body | {"usage": {"input_tokens": 9, "output_tokens": 300}}), Reply(body=body))
    charged, free = failure(backend, asked), failure(backend, asked)
    assert (charged.code, charged.is_answer) == (free.code, free.is_answer) == ("model_bad_response", True)
    assert (charged.prompt_tokens, charged.completion_tokens) == (9, 300)
    assert free.prompt_tokens is None


@pytest.mark.parametrize(
    ("usage", "tokens", "flag"),
    [
        # As gpt-image has it.
        (
            {"input_tokens": 9, "output_tokens": 300, "total_tokens": 309, "input_tokens_details": {"text_tokens": 9}},
            (9, 300),
            None,
        ),
        ({"prompt_tokens": 9, "completion_tokens": 300}, (9, 300), None),
        # No report: what the operator has set for an image, and a token for every four bytes.
        (None, (6, 600), None),
        ({}, (6, 600), None),
        ({"input_tokens": 9}, (9, 600), None),
        ({"output_tokens": 300}, (6, 300), None),
        ({"total_tokens": 9}, (6, 600), None),
        # One that cannot be true.
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, (6, 600), "estimated"),
        ({"input_tokens": 9, "output_tokens": 1001}, (9, 1000), "implausible"),
        ({"input_tokens": 9, "output_tokens": 900_000_000}, (9, 1000), "implausible"),
    ],
)
def test_what_is_booked_for_an_image(
    server: ScriptedServer,
    backend: OpenAIBackend,
    image: Claim,
    usage: Any,
    tokens: tuple[int, int],
    flag: str | None,
) -> None:
    server.replies(Reply(body=drawn() | ({} if usage is None else {"usage": usage})))
    found = backend.complete(image, PATIENT)
    assert (found.prompt_tokens, found.completion_tokens) == tokens
    assert (found.doubt.flag if found.doubt else None) == flag


def test_a_large_image_arrives_and_no_number_of_bytes_does(
    server: ScriptedServer, backend: OpenAIBackend, image: Claim
) -> None:
    large = PNG + bytes(MAX_FILE_BYTES)
    server.replies(Reply(body=drawn(large)), Reply(body=drawn(large * 3)))
    assert backend.complete(image, PATIENT).content == large
    assert failure(backend, image).code == "result_too_large"


# Speech ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mime_type"),
    [
        ("audio/mpeg", "audio/mpeg"),
        ("Audio/MP3; charset=binary", "audio/mpeg"),
        ("audio/x-wav", "audio/wav"),
        ("audio/opus", "audio/ogg"),
        ("audio/ogg; codecs=opus", "audio/ogg"),
        ("audio/aac", "audio/aac"),
        ("audio/flac", "audio/flac"),
        ("audio/pcm", "application/octet-stream"),
        ("audio/x-something", "application/octet-stream"),
        ("application/octet-stream", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_audio_and_its_type(
    server: ScriptedServer, backend: OpenAIBackend, speech: Claim, kind: str, mime_type: str
) -> None:
    # Raw samples may begin with any byte.
    server.replies(audio(b"<" + MP3, kind))
    found = backend.complete(speech, PATIENT)
    assert (found.content, found.output.file and found.output.file.mime_type) == (b"<" + MP3, mime_type)
    assert (found.prompt_tokens, found.completion_tokens, found.doubt) == (len(PROMPT), 0, None)


def test_characters_are_counted_and_not_bytes(server: ScriptedServer, backend: OpenAIBackend, speech: Claim) -> None:
    server.replies(audio())
    spoken = Input.of_prompt("größe 🙂").model_copy(update={"speech": speech.input.speech})
    asked = replace(speech, input=spoken, overhead_tokens=0)
    assert backend.complete(asked, PATIENT).prompt_tokens == 7 <= asked.prompt_tokens_most


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("audio/mpeg", b""),
        ("text/html", PAGE),
        ("audio/mpeg", PAGE),
        ("audio/mpeg", b"\n  <html>"),
        ("application/octet-stream", SVG),
        ("image/svg+xml", SVG),
        ("image/png", PNG),
        ("text/plain", WORDS.encode()),
        ("application/json", b'{"audio": "x"}'),
        ("application/json", b"{"),
        ("application/xml", MP3),
        ("text/event-stream", b'data: {"type": "speech.audio.delta"}\n\n'),
    ],
)
def test_what_is_no_audio_is_bad_and_costs_nothing(
    server: ScriptedServer, backend: OpenAIBackend, speech: Claim, kind: str, body: bytes
) -> None:
    server.replies(audio(body, kind))
    error = failure(backend, speech)
    assert (error.code, error.prompt_tokens) == ("model_bad_response", None)


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", "audio/mpeg"])
def test_an_error_is_no_recording_whatever_it_calls_itself(
    server: ScriptedServer, backend: OpenAIBackend, speech: Claim, kind: str
) -> None:
    server.replies(audio(b'{"error": {"message": "out of memory", "code": 500}}', kind))
    error = failure(backend, speech)
    assert (error.code, error.prompt_tokens) == ("model_unavailable", None)


def test_a_recording_that_is_too_long_to_be_read_is_charged(
    server: ScriptedServer, backend: OpenAIBackend, speech: Claim
) -> None:
    server.replies(audio(bytes(MAX_FILE_BYTES * 2 + 1)), audio(bytes(MAX_FILE_BYTES * 2 + 1), status=500))
    charged, failed = failure(backend, speech), failure(backend, speech)
    assert (charged.code, charged.prompt_tokens, charged.completion_tokens) == ("result_too_large", len(PROMPT), 0)
    assert (failed.code, failed.prompt_tokens) == ("result_too_large", None)


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_errors_have_the_codes_of_other_calls(
    server: ScriptedServer, backend: OpenAIBackend, image: Claim, speech: Claim, kind: str
) -> None:
    refused = {"error": {"message": WORDS, "code": "content_policy_violation"}}
    inside = {"error": {"code": 429, "message": WORDS}}
    server.replies(Reply(404, {}), Reply(429, {}), Reply(400, refused), Reply(body=inside))
    asked = image if kind == "image" else speech
    codes = [failure(backend, asked).code for _ in range(4)]
    assert codes == ["model_misconfigured", "model_throttled", "content_filtered", "model_throttled"]


# Whatever comes -------------------------------------------------------------------------------------------------------

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["png", "iVBORw0KGgo="]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "b64_json", "url", "output_format"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["data", "output_format"]), VALUES))
def test_whatever_is_answered_is_an_image_or_unreadable(document: dict[str, Any]) -> None:
    try:
        _, mime_type = read_image(document, ImageOptions())
    except UnreadableError:
        return
    assert mime_type.startswith("image/")


@given(st.text(max_size=40) | st.none(), st.binary(max_size=40))
def test_whatever_a_header_says_the_type_is_a_safe_one(header: str | None, content: bytes) -> None:
    try:
        assert audio_type(header, content) in FILE_TYPES
    except UnreadableError:
        return
