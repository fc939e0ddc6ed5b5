"""A minimal client of the deployed API: submit a prompt and poll until the request is finished."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from local.environment import direct_opener
from local.errors import LocalError

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})

_CALL_SECONDS = 60.0  # in a burst, each call starts an execution environment on this machine


def call(method: str, url: str, key: str, body: object = None) -> tuple[int, Any]:
    """Call the API and return the HTTP status and the body, parsed if it is JSON.

    Raises:
        LocalError: the API did not answer.
    """
    request = urllib.request.Request(url, method=method, headers={"x-api-key": key})  # noqa: S310  (the URL is ours, with http)
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
    """Submit a prompt, wait until the request is finished and return the answer of GET /status.

    Args:
        api_url: the base URL.
        key: an API key.
        prompt: the prompt.
        max_tokens: the limit for the completion.
        seconds: how long to wait.
        on_accepted: called with the request's id.

    Raises:
        LocalError: the request was refused, or not finished in time.
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
