"""A model whose answers are in its prompts, and that draws and speaks."""

import base64
import io
import json
import wave
import zlib
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


def _chunk(name: bytes, content: bytes) -> bytes:
    checked = name + content
    return len(content).to_bytes(4) + checked + zlib.crc32(checked).to_bytes(4)


def _picture() -> bytes:
    """A PNG of 256 times 256 grey points, each its own shade."""
    size = 256
    header = size.to_bytes(4) * 2 + bytes((8, 0, 0, 0, 0))
    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(size)) for y in range(size))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, content) for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def _recording() -> bytes:
    """A second of a tone, as WAV."""
    with io.BytesIO() as file:
        with wave.open(file, "wb") as sound:
            sound.setparams((1, 1, 8000, 8000, "NONE", "not compressed"))
            sound.writeframes(bytes(n % 20 * 12 for n in range(8000)))
        return file.getvalue()


PICTURE = _picture()
RECORDING = _recording()


class ScriptedModel:
    """An OpenAI-compatible server that does what the first message of the user says, as JSON.

    {"status": 429, "headers": {}, "body": ..., "seconds": 2}, or {"text": "an answer"}, or {"message": {"content": ...}}
    with {"finish_reason", "usage"} beside it. {"turns": [...]} has one of these for each answer of the conversation.
    Asked for an image or for speech, it answers with `PICTURE` or `RECORDING`; if what it is to draw or say is
    {"bytes": 10000000}, then with so many.

    Attributes:
        asked: the bodies that it was sent, in order.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.released = Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                scripted.asked.append(asked)
                script = self.file(asked) or script_of(asked["messages"])
                scripted.released.wait(60 if script.get("hang") else script.get("seconds", 0))
                body = script["body"] if "body" in script else completion(**script)
                if not isinstance(body, bytes):
                    body = body if isinstance(body, str) else json.dumps(body)
                payload = body if isinstance(body, bytes) else body.encode()
                try:
                    self.send_response(script.get("status", 200))
                    for name, value in script.get("headers", {}).items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:
                    pass  # the caller has given up

            def file(self, asked: dict[str, Any]) -> dict[str, Any] | None:
                if self.path.endswith("/images/generations"):
                    picture = base64.b64encode(filled(PICTURE, asked["prompt"])).decode()
                    return {"body": {"created": 1, "data": [{"b64_json": picture}]}}
                if self.path.endswith("/audio/speech"):
                    return {"body": filled(RECORDING, asked["input"]), "headers": {"Content-Type": "audio/wav"}}
                return None

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 100

            def handle_error(self, *_: Any) -> None:
                """Ignore callers that were killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def asked_about(self, word: str) -> list[dict[str, Any]]:
        """The bodies with this word in their messages."""
        return [body for body in self.asked if word in json.dumps(body.get("messages", ()))]

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def filled(file: bytes, script: str) -> bytes:
    """A file with zeros after it, up to the length that the script wants."""
    try:
        return file.ljust(json.loads(script)["bytes"], b"\0")
    except ValueError:
        return file


def script_of(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is to be done in answer to a conversation."""
    content = next(message["content"] for message in messages if message["role"] == "user")
    script: dict[str, Any] = json.loads(content if isinstance(content, str) else content[0]["text"])
    if "turns" not in script:
        return script
    turn: dict[str, Any] = script["turns"][sum(message["role"] == "assistant" for message in messages)]
    return turn


def completion(
    text: str = "fine",
    message: Mapping[str, Any] | None = None,
    finish_reason: str | None = None,
    usage: Mapping[str, Any] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """A chat completion with seven tokens of a prompt and three of an answer."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text, **(message or {})}}
    if finish_reason is not None:
        choice["finish_reason"] = finish_reason
    return {
        "choices": [choice],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **(usage or {})},
    }
