"""Through the deployed stack: answers that are files, from the model's server to the client."""

import base64
import urllib.error
import urllib.request
from email.message import Message

import pytest

from tests.e2e.conftest import Client
from tests.support.openai_clients import OpenAI
from tests.support.scripted_model import PICTURE, RECORDING


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
