"""OpenAI's client as a process: a call on each line of its input, and on a line of its output what came of it.

It is run by the interpreter of an environment that has the package, in any of its major versions. Nothing is done to the
client: a call is the name of a method and its arguments, and what comes back is what the client made of the answer.
"""

import asyncio
import base64
import inspect
import json
import sys
import time
from functools import reduce
from pathlib import Path
from typing import Any

import openai
from pydantic import BaseModel


class City(BaseModel):
    """The answer that `parse` is asked for."""

    name: str
    population: int


# Arguments that are classes, by name.
_CLASSES = {"City": City}


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        try:
            done = {"result": asyncio.run(_in_parallel(order)) if order["asynchronous"] else _one(order)}
        except Exception as error:  # noqa: BLE001  (what it means is for the test to say)
            done = {"error": described(error)}
        print(json.dumps(done | {"seconds": time.monotonic() - began, "version": openai.__version__}), flush=True)


def _one(order: dict[str, Any]) -> Any:
    with openai.OpenAI(**order["client"]) as client:
        answer = _method(client, order["call"])(**_arguments(order["arguments"]))
        if hasattr(answer, "__enter__") and not hasattr(answer, "__iter__"):  # .stream()
            with answer as stream:
                return {"events": [_plain(event) for event in stream], "final": _plain(_final(stream))}
        # A stream, or a page that asks for the next one; a model iterates over its fields.
        if hasattr(answer, "iter_pages") or (hasattr(answer, "__iter__") and not isinstance(answer, BaseModel)):
            return [_plain(each) for each in answer]
        return _plain(answer)


async def _in_parallel(order: dict[str, Any]) -> Any:
    """One call, or where there is a list of arguments, as many at once."""
    async with openai.AsyncOpenAI(**order["client"]) as client:
        if isinstance(given := order["arguments"], list):
            return await asyncio.gather(*(_one_of_many(client, order["call"], each) for each in given))
        return await _one_of_many(client, order["call"], given)


async def _one_of_many(client: Any, call: str, given: dict[str, Any]) -> Any:
    answer = _method(client, call)(**_arguments(given))
    if hasattr(answer, "__aenter__"):  # .stream()
        async with answer as stream:
            return {"events": [_plain(event) async for event in stream], "final": _plain(await _final(stream))}
    if hasattr(answer, "iter_pages") or hasattr(answer, "__aiter__"):  # .list(): a page, once it is awaited
        return [_plain(each) async for each in answer]
    if inspect.isawaitable(answer):  # what asks nobody is no coroutine: webhooks.unwrap
        answer = await answer
    if hasattr(answer, "__aiter__"):
        return [_plain(each) async for each in answer]
    return _plain(answer)


def _method(client: Any, call: str) -> Any:
    return reduce(getattr, call.split("."), client)


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    return {name: _argument(name, value) for name, value in given.items()}


def _argument(name: str, value: Any) -> Any:
    if name in {"response_format", "text_format"} and isinstance(value, str):
        return _CLASSES.get(value, value)
    # A file is given by its path.
    return Path(value) if name == "file" and isinstance(value, str) else value


def _final(stream: Any) -> Any:
    return stream.get_final_response() if hasattr(stream, "get_final_response") else stream.get_final_completion()


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if hasattr(value, "retries_taken"):  # with_raw_response
        parsed = _plain(value.parse())
        return {"retries": value.retries_taken, "headers": dict(value.headers), "parsed": parsed}
    if hasattr(value, "iter_bytes"):  # a file
        return {"content": base64.b64encode(value.content).decode(), "type": value.response.headers["content-type"]}
    if not isinstance(value, BaseModel):
        return value
    plain: dict[str, Any] = value.model_dump(mode="json", warnings=False)
    for name in ("output_text", "output_parsed"):
        if hasattr(value, name):
            plain[name] = _plain(getattr(value, name))
    if request_id := getattr(value, "_request_id", None):
        plain["_request_id"] = request_id
    return plain


def described(error: Exception) -> dict[str, Any]:
    """An exception as its user sees it."""
    return {
        "exception": type(error).__name__,
        "message": str(error),
        **{name: getattr(error, name, None) for name in ("status_code", "code", "param", "type", "body", "request_id")},
    }


if __name__ == "__main__":
    main()
