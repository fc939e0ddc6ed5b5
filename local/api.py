"""A minimal client of the deployed API, as anybody would write one: submit a prompt, ask until it is answered."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from local.environment import direct_opener
from local.errors import LocalError

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})

_CALL_SECONDS = 60.0  # a burst starts an environment for each call, and they share this machine


def call(method: str, url: str, key: str, body: object = None) -> tuple[int, Any]:
    """One call of the API: the HTTP status and the body, read as JSON where it is."""
    request = urllib.request.Request(url, method=method, headers={"x-api-key": key})  # noqa: S310  (http, made by us)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with direct_opener.open(request, timeout=_CALL_SECONDS) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            status, text = refused.code, refused.read()
    except OSError as problem:
        raise LocalError(f"The API at {url} does not answer: {problem}") from None
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode("utf-8", "replace")


def generate(
    api_url: str,
    key: str,
    prompt: str,
    *,
    max_tokens: int,
    seconds: float = 120.0,
    on_accepted: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Submit a prompt and wait for its end; returns what GET /status says of it then.

    `on_accepted` receives the request's id. LocalError if it is refused, or has not ended after `seconds`.
    """
    status, accepted = call(
        "POST", f"{api_url}/generate", key, {"prompt": prompt, "parameters": {"max_tokens": max_tokens}}
    )
    if status != 202:
        raise LocalError(f"The API refused the prompt ({status}): {accepted}")
    request_id = str(accepted["request_id"])
    if on_accepted is not None:
        on_accepted(request_id)
    deadline = time.monotonic() + seconds
    while True:
        status, answer = call("GET", f"{api_url}/status/{request_id}", key)
        if status != 200:
            raise LocalError(f"The API answered {status} about request {request_id}: {answer}")
        if answer["status"] in FINAL:
            return dict(answer)
        if time.monotonic() > deadline:
            raise LocalError(f"Request {request_id} is still {answer['status']} after {seconds:.0f} s.")
        time.sleep(0.25)
