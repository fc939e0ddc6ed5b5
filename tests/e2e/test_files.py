"""Through the deployed stack: answers that are files, from the model's server to the client."""

import base64
import json
import re
import urllib.error
import urllib.request
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.e2e.conftest import Client
from tests.support.openai_clients import OpenAI, SdkError
from tests.support.scripted_model import PICTURE, RECORDING, filled

LARGE = '{"bytes": 12000000}'


def download(client: Client, path: str, **headers: str) -> tuple[int, Message, bytes]:
    """The status, the headers and the bytes of a route."""
    assert client.key is not None
    sent = {"x-api-key": client.key} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(client.url + path, headers=sent), timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers, refused.read()


def test_an_image_is_fetched_whole_and_in_parts(client: Client) -> None:
    request_id = client.submit("A grey pattern.", model="artist", image={"output_format": "png"})
    done = client.wait(request_id)
    assert (done["status"], done["result"], done["result_type"], done["mime_type"], done["byte_length"]) == (
        "completed",
        None,
        "file",
        "image/png",
        len(PICTURE),
    )
    status, headers, content = download(client, done["result_url"])
    assert (status, headers["Content-Type"], headers["Content-Length"]) == (200, "image/png", str(len(PICTURE)))
    assert content == PICTURE

    status, headers, content = download(client, done["result_url"], range="bytes=100-199")
    assert (status, headers["Content-Range"]) == (206, f"bytes 100-199/{len(PICTURE)}")
    assert content == PICTURE[100:200]
    assert download(client, done["result_url"], range=f"bytes={len(PICTURE)}-")[0] == 416
    assert download(client, done["result_url"], if_none_match=headers["ETag"])[0] == 304


def test_a_text_is_fetched_as_text(client: Client) -> None:
    done = client.wait(client.submit('{"text": "plain"}', model="scripted"))
    status, headers, content = download(client, f"/results/{done['request_id']}")
    assert (status, headers["Content-Type"], content) == (200, "text/plain; charset=utf-8", b"plain")


def test_what_is_not_there(client: Client) -> None:
    assert download(client, "/results/01a209bd-0000-7000-8000-000000000000")[0] == 404


def test_openais_client_draws(openai: OpenAI) -> None:
    done = openai("images.generate", model="artist", prompt="A grey pattern.")
    assert base64.b64decode(done["data"][0]["b64_json"]) == PICTURE


@pytest.mark.parametrize("form", ["wav", "mp3"])
def test_openais_client_speaks(openai: OpenAI, form: str) -> None:
    done = openai("audio.speech.create", model="speaker", input="Good morning.", voice="alloy", response_format=form)
    # What the model's server sent counts, and not what was asked for.
    assert (base64.b64decode(done["content"]), done["type"]) == (RECORDING, "audio/wav")


# Too large for the database, and for an answer of Lambda.


def test_a_large_image_is_fetched_from_the_bucket(client: Client) -> None:
    done = client.wait(client.submit(LARGE, model="artist", image={}))
    assert (done["status"], done["byte_length"]) == ("completed", 12_000_000)
    # The client follows the redirect.
    status, headers, content = download(client, done["result_url"])
    assert (status, headers["Content-Type"], content) == (200, "image/png", filled(PICTURE, LARGE))
    assert headers["Content-Disposition"] == f'attachment; filename="{done["request_id"]}.png"'
    status, headers, content = download(client, done["result_url"], range="bytes=11999990-")
    assert (status, headers["Content-Range"], content) == (206, "bytes 11999990-11999999/12000000", bytes(10))


def test_an_address_is_good_for_minutes_and_for_nothing_else(client: Client) -> None:
    done = client.wait(client.submit(LARGE, model="artist", image={}))
    address = location(client, done["result_url"])
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert len(answer.read()) == 12_000_000
    key = urlsplit(address).path
    query = parse_qs(urlsplit(address).query)
    assert query["X-Amz-Expires"] == ["300"]
    # The emulator gives anybody what is asked for without a signature; tests/template looks at who may on AWS.
    for wrong in (
        address.replace(key, key[:-1] + ("1" if key.endswith("0") else "0")),
        address.replace(query["X-Amz-Signature"][0], "0" * 64),
        address.replace("X-Amz-Expires=300", "X-Amz-Expires=604800"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(wrong, timeout=60)
        with refused.value:
            assert refused.value.code == 403


def location(client: Client, path: str) -> str:
    """Where a route sends its client."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    assert client.key is not None
    request = urllib.request.Request(client.url + path, headers={"x-api-key": client.key})
    with pytest.raises(urllib.error.HTTPError) as moved:
        urllib.request.build_opener(Stay).open(request, timeout=60)
    with moved.value:
        assert moved.value.code == 302
        return str(moved.value.headers["Location"])


def test_openais_client_draws_and_speaks_at_length(openai: OpenAI) -> None:
    done = openai("images.generate", model="artist", prompt=LARGE)
    assert done["data"][0]["b64_json"] is None
    with urllib.request.urlopen(done["data"][0]["url"], timeout=60) as answer:
        assert answer.read() == filled(PICTURE, LARGE)
    done = openai("audio.speech.create", model="speaker", input=LARGE, voice="alloy")
    assert (base64.b64decode(done["content"]), done["type"]) == (filled(RECORDING, LARGE), "audio/wav")


def test_a_long_text_is_fetched_from_the_bucket(client: Client, openai: OpenAI) -> None:
    script = json.dumps({"text": "long " * 1900})
    with pytest.raises(SdkError) as failed:
        openai("chat.completions.create", model="scripted", messages=[{"role": "user", "content": script}])
    assert (failed.value.status, failed.value.body["failure"]) == (400, "result_too_large")
    (path,) = re.findall(r"GET (/results/\S+) has it", str(failed.value))
    status, headers, content = download(client, path)
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert content == b"long " * 1900
