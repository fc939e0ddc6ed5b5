"""Clients that wait: many at once, for longer than a connection is held, and while parts are killed.

On a stack of its own with a scripted model: here environments are killed, and models take their time.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest

from local.processes import wait_until
from local.stack import Stack, StackInfo
from tests.support.openai_clients import MAJORS, ClientProcess, OpenAI
from tests.support.processes import function_processes
from tests.support.scripted_model import ScriptedModel

from .conftest import Client

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("waiting")]

# Longer than a connection is held (bootstrap.WAIT_SECONDS), shorter than a model may take here.
LONG_SECONDS = 27
LONG_ENOUGH_SECONDS = 4  # to kill something meanwhile


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel) -> Iterator[Stack]:
    parameters = {"WorkerTimeout": "60", "RetryBaseSeconds": "1"}
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(folder, durable=False, llm_url=scripted_model.url, parameters=parameters)
    try:
        with stack:
            model = {"backend": "openai", "backend_model": "x", "timeout_seconds": 40}
            stack.admin("model.set", model_id="scripted", endpoint=scripted_model.url, **model)
            yield stack
    finally:
        stack.destroy()


@pytest.fixture(params=MAJORS)
def openai(
    request: pytest.FixtureRequest, client_processes: dict[int, ClientProcess], stack: Stack, info: StackInfo
) -> OpenAI:
    """A new user with each major of the client, as it is by default."""
    return newcomer(client_processes[request.param], stack, info)


def newcomer(process: ClientProcess, stack: Stack, info: StackInfo) -> OpenAI:
    user_id = f"user-{uuid4().hex[:8]}"
    stack.admin("user.create", user_id=user_id, tier="premium")
    return OpenAI(process, info.api_url, stack.admin("key.create", user_id=user_id)["api_key"])


def ask(word: str, **script: Any) -> dict[str, Any]:
    """The arguments of a call that the scripted model answers with the word."""
    content = json.dumps({"text": word, **script})
    return {"model": "scripted", "messages": [{"role": "user", "content": content}]}


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def charged(openai: OpenAI) -> tuple[int, int]:
    """Requests and tokens of this month, as the client's user sees them."""
    (month,) = Client(openai.url, openai.key).get("/usage").body["months"]
    return month["requests"], month["total_tokens"]


Begun = tuple[str, Future[Any]]


@pytest.fixture
def begin(openai: OpenAI, scripted_model: ScriptedModel) -> Iterator[Callable[[], Begun]]:
    """Begins a call, and waits until the model was asked; returns what was asked for and the call's result."""
    with ThreadPoolExecutor(1) as pool:

        def begin() -> Begun:
            word = uuid4().hex
            arguments = ask(word, seconds=LONG_ENOUGH_SECONDS)
            answer = pool.submit(openai, "chat.completions.with_raw_response.create", **arguments)
            assert wait_until(lambda: bool(scripted_model.asked_about(word)), 30)
            return word, answer

        yield begin


def kill(stack: Stack, role: str) -> None:
    """Kill all environments of a function."""
    pids = [pid for pid, of in function_processes(stack) if of == role]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_twenty_at_once(openai: OpenAI, scripted_model: ScriptedModel) -> None:
    words = [uuid4().hex for _ in range(20)]

    answers = openai("chat.completions.create", *(ask(word, seconds=0.2) for word in words))

    assert [text_of(answer) for answer in answers] == words
    assert len({answer["id"] for answer in answers}) == 20
    assert [len(scripted_model.asked_about(word)) for word in words] == [1] * 20
    assert charged(openai) == (20, 200)


def test_equal_calls_at_once_are_different_requests(openai: OpenAI, scripted_model: ScriptedModel) -> None:
    word = uuid4().hex
    answers = openai("chat.completions.create", *[ask(word, seconds=0.5)] * 3)
    assert len({answer["id"] for answer in answers}) == 3
    assert len(scripted_model.asked_about(word)) == 3
    assert charged(openai)[0] == 3


def test_a_model_takes_longer_than_a_connection_is_held(
    client_processes: dict[int, ClientProcess], stack: Stack, info: StackInfo, scripted_model: ScriptedModel
) -> None:
    """Each client repeats the call by itself. Both majors at the same time, since it takes long."""
    users = [newcomer(client_processes[major], stack, info) for major in MAJORS]
    words = [uuid4().hex for _ in users]

    def call(user: OpenAI, word: str) -> dict[str, Any]:
        return user.send("chat.completions.with_raw_response.create", ask(word, seconds=LONG_SECONDS))

    with ThreadPoolExecutor(len(users)) as pool:
        answers = list(pool.map(call, users, words))

    for user, word, answer in zip(users, words, answers, strict=True):
        assert text_of(answer["result"]["parsed"]) == word
        assert answer["result"]["retries"] == 1
        assert LONG_SECONDS <= answer["seconds"] < 60
        assert len(scripted_model.asked_about(word)) == 1
        assert charged(user) == (1, 10)


def test_a_client_hangs_up(openai: OpenAI, scripted_model: ScriptedModel) -> None:
    word = uuid4().hex
    hasty = openai.with_options(timeout=2, max_retries=0)

    gone = hasty.send("chat.completions.create", ask(word, seconds=LONG_ENOUGH_SECONDS))

    assert gone["error"]["exception"] == "APITimeoutError"
    native = Client(openai.url, openai.key)
    (listed,) = native.get("/requests").body["requests"]
    assert native.wait(listed["request_id"])["result"] == word
    assert len(scripted_model.asked_about(word)) == 1
    assert charged(openai) == (1, 10)


def test_the_function_that_holds_the_connection_is_killed(
    openai: OpenAI, begin: Callable[[], Begun], stack: Stack, scripted_model: ScriptedModel
) -> None:
    word, call = begin()
    kill(stack, "openai")
    answer = call.result()

    assert text_of(answer["parsed"]) == word
    assert answer["retries"] >= 1
    assert len(scripted_model.asked_about(word)) == 1
    assert charged(openai) == (1, 10)


def test_the_function_that_asks_the_model_is_killed(
    openai: OpenAI, begin: Callable[[], Begun], stack: Stack, scripted_model: ScriptedModel
) -> None:
    word, call = begin()
    kill(stack, "foreground")
    answer = call.result()

    assert text_of(answer["parsed"]) == word
    # Nobody can know whether the first call of the model was charged by its provider; it is charged once here.
    assert len(scripted_model.asked_about(word)) == 2
    assert charged(openai) == (1, 10)
    shown = stack.admin("request.get", request_id=str(UUID(answer["parsed"]["id"].removeprefix("chatcmpl-"))))
    assert (shown["status"], shown["attempts"]) == ("completed", 2)


def test_the_books_are_clean(stack: Stack) -> None:
    stack.admin("rollup.run", tasks=["usage", "stats", "audit"])
    assert stack.admin("verify", full=True)["balanced"]
