"""OpenAI's clients, unchanged, against the deployed service: both majors, synchronous and asynchronous, validating."""

import json
import time
from typing import Any
from uuid import UUID, uuid4

import pytest

from local.stack import Stack, StackInfo
from tests.support.openai_clients import OpenAI, SdkError

from .conftest import Client
from .test_ledger import sluice

__all__ = ["sluice"]  # a fixture

REAL = "smollm2-135m-instruct"
EMBEDDINGS = "smollm2-135m-embeddings"
CITY = '{"name": "Oslo", "population": 717710}'


def says(text: str, **script: Any) -> str:
    """A prompt that the scripted model answers with this text."""
    return json.dumps({"text": text, "of": uuid4().hex, **script})


def asks(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def request_id_of(answer: dict[str, Any]) -> str:
    """The request behind a response or a chat completion."""
    return str(UUID(answer["id"].partition("_" if answer["id"].startswith("resp_") else "-")[2]))


def ended(openai: OpenAI, response: dict[str, Any]) -> dict[str, Any]:
    """A background response once it has ended."""
    deadline = time.monotonic() + 60
    while response["status"] in {"queued", "in_progress"}:
        assert time.monotonic() < deadline, response["status"]
        time.sleep(0.2)
        response = openai("responses.retrieve", response_id=response["id"])
    return response


# Answers of the real model --------------------------------------------------------------------------------------------


def test_a_chat(openai: OpenAI, client: Client) -> None:
    answer = openai("chat.completions.create", model=REAL, messages=asks("Name a river."), max_tokens=12)

    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"]) == ("chat.completion", REAL)
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip()
    assert choice["finish_reason"] in {"stop", "length"}
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert answer["_request_id"] == request_id_of(answer)
    # It is a request like any other.
    shown = client.get(f"/status/{request_id_of(answer)}").body
    assert (shown["status"], shown["result"]) == ("completed", choice["message"]["content"])
    assert shown["usage"]["total_tokens"] == usage["total_tokens"]


def test_a_chat_as_a_stream(openai: OpenAI) -> None:
    chunks = openai(
        "chat.completions.create",
        model=REAL,
        messages=asks("Name a lake."),
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert "".join(choice["delta"]["content"] or "" for choice in choices).strip()
    assert choices[-1]["finish_reason"] in {"stop", "length"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_a_response_and_one_that_continues_it(openai: OpenAI, client: Client) -> None:
    first = openai("responses.create", model=REAL, input="Name a town.", max_output_tokens=12, temperature=0.5)
    second = openai("responses.create", model=REAL, input="Another?", previous_response_id=first["id"])

    assert first["output_text"].strip()
    assert (first["object"], first["background"], first["temperature"]) == ("response", False, 0.5)
    assert first["usage"]["total_tokens"] == first["usage"]["input_tokens"] + first["usage"]["output_tokens"]
    assert second["previous_response_id"] == first["id"]
    # It was told what was said before.
    items = openai("responses.input_items.list", response_id=second["id"], order="asc")
    assert [item["role"] for item in items] == ["user", "assistant", "user"]
    assert items[1]["content"][0]["text"] == first["output_text"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert openai("responses.retrieve", response_id=first["id"])["output"] == first["output"]
    assert client.get(f"/status/{request_id_of(first)}").body["result"] == first["output_text"]


def test_a_response_in_the_background(openai: OpenAI) -> None:
    asked = [{"role": "user", "content": f"Say {number}."} for number in range(5)]
    begun = openai("responses.create", model=REAL, input=asked, background=True, max_output_tokens=8)
    assert (begun["status"], begun["background"], begun["usage"]) == ("queued", True, None)

    done = ended(openai, begun)

    assert done["status"] in {"completed", "incomplete"}
    assert done["output_text"].strip()
    # Newest first, a page of two after the other.
    items = openai("responses.input_items.list", response_id=done["id"], limit=2)
    assert [item["content"][0]["text"] for item in items] == [each["content"] for each in reversed(asked)]
    events = openai("responses.retrieve", response_id=done["id"], stream=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"] == done["output"]
    rest = openai("responses.retrieve", response_id=done["id"], stream=True, starting_after=3)
    assert rest == events[4:]
    assert openai("responses.cancel", response_id=done["id"])["status"] == done["status"]
    assert openai("responses.delete", response_id=done["id"]) is None
    with pytest.raises(SdkError) as gone:
        openai("responses.retrieve", response_id=done["id"])
    assert (gone.value.exception, gone.value.status) == ("NotFoundError", 404)


def test_embeddings(openai: OpenAI) -> None:
    texts = ["A cat sits on the mat.", "A kitten lies on a rug."]
    floats = openai("embeddings.create", model=EMBEDDINGS, input=texts, encoding_format="float")
    # By default the client asks for base64, which its own validation refuses before it decodes it.
    by_default = openai.with_options(_strict_response_validation=False)(
        "embeddings.create", model=EMBEDDINGS, input=texts
    )

    assert (floats["object"], floats["model"]) == ("list", EMBEDDINGS)
    assert [each["index"] for each in floats["data"]] == [0, 1]
    for one, other in zip(floats["data"], by_default["data"], strict=True):
        assert sum(number**2 for number in one["embedding"]) == pytest.approx(1, abs=1e-3)
        assert other["embedding"] == pytest.approx(one["embedding"], abs=1e-6)
    assert floats["usage"]["prompt_tokens"] == floats["usage"]["total_tokens"] > len(texts)


def test_models(openai: OpenAI, stack: Stack) -> None:
    stack.admin("alias.set", alias="gpt-4o-mini", model_id=REAL)
    stack.admin(
        "model.set", model_id="org/small", backend="openai", backend_model="x", endpoint="http://127.0.0.1:9/v1"
    )

    listed = {model["id"]: model for model in openai("models.list")}

    assert {REAL, EMBEDDINGS, "gpt-4o-mini", "org/small", "scripted"} <= set(listed)
    for name in ("gpt-4o-mini", "org/small"):
        assert openai("models.retrieve", model=name) == listed[name]
    answer = openai("chat.completions.create", model="gpt-4o-mini", messages=asks("Say hi."), max_tokens=2)
    assert answer["model"] == REAL
    with pytest.raises(SdkError) as unknown:
        openai("models.retrieve", model="org/none")
    assert (unknown.value.exception, unknown.value.code) == ("NotFoundError", "model_not_found")


def test_the_count_of_an_input(openai: OpenAI, client: Client) -> None:
    prompt = says("fine")
    counted = openai("responses.input_tokens.count", model="scripted", input=prompt)["input_tokens"]
    answer = openai("responses.create", model="scripted", input=prompt, max_output_tokens=16)

    assert counted >= answer["usage"]["input_tokens"]
    assert client.get(f"/status/{request_id_of(answer)}").body["reserved_tokens"] == counted + 16


# What a model has to say for it ---------------------------------------------------------------------------------------


def test_answers_with_a_structure(openai: OpenAI) -> None:
    chat = openai("chat.completions.parse", model="scripted", messages=asks(says(CITY)), response_format="City")
    response = openai("responses.parse", model="scripted", input=says(CITY), text_format="City")

    assert chat["choices"][0]["message"]["parsed"] == json.loads(CITY)
    assert response["output_parsed"] == json.loads(CITY)
    assert response["text"]["format"]["name"] == "City"


def test_streams_are_put_together_by_the_client(openai: OpenAI) -> None:
    text = "word " * 1000
    chat = openai("chat.completions.stream", model="scripted", messages=asks(says(text, finish_reason="stop")))
    assert chat["final"]["choices"][0]["message"]["content"] == text
    assert chat["events"][-1]["type"] == "content.done"
    assert sum(event["type"] == "content.delta" for event in chat["events"]) > 1

    response = openai("responses.stream", model="scripted", input=says(text, finish_reason="stop"))
    assert response["final"]["output_text"] == text
    kinds = [event["type"] for event in response["events"]]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"


def test_a_stream_in_the_background_is_taken_up_again(openai: OpenAI) -> None:
    whole = openai("responses.create", model="scripted", input=says("fine"), background=True, stream=True)
    response_id = whole[0]["response"]["id"]

    rest = openai("responses.stream", response_id=response_id, starting_after=whole[2]["sequence_number"])

    assert whole[-1]["type"] == "response.completed"
    assert [event["sequence_number"] for event in rest["events"]] == list(range(3, len(whole)))


def test_a_response_that_is_cancelled(openai: OpenAI) -> None:
    begun = openai("responses.create", model="scripted", input=says("late", seconds=2), background=True)

    cancelled = ended(openai, openai("responses.cancel", response_id=begun["id"]))

    assert (cancelled["status"], cancelled["output"]) == ("cancelled", [])
    assert openai("responses.cancel", response_id=begun["id"])["status"] == "cancelled"


# Errors are the client's own exceptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes", "exception", "status", "code", "param"),
    [
        ("chat.completions.create", {"model": "none"}, "NotFoundError", 404, "model_not_found", "model"),
        ("chat.completions.create", {"messages": []}, "BadRequestError", 400, "empty_array", "messages"),
        ("chat.completions.create", {"n": 2}, "BadRequestError", 400, "unsupported_parameter", "n"),
        ("chat.completions.create", {"extra_body": {"no": 1}}, "BadRequestError", 400, "unknown_parameter", "no"),
        (
            "chat.completions.create",
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "BadRequestError",
            400,
            "missing_required_parameter",
            "messages[0].content[0].text",
        ),
        (
            "responses.create",
            {"previous_response_id": "resp_none"},
            "BadRequestError",
            400,
            "previous_response_not_found",
            "previous_response_id",
        ),
        ("responses.create", {"conversation": "c"}, "BadRequestError", 400, "unsupported_parameter", "conversation"),
        ("responses.retrieve", {"response_id": f"resp_{'0' * 32}"}, "NotFoundError", 404, "request_not_found", None),
        ("embeddings.create", {"model": REAL}, "BadRequestError", 400, "model_not_supported", "model"),
    ],
)
def test_what_is_refused(
    openai: OpenAI,
    method: str,
    changes: dict[str, Any],
    exception: str,
    status: int,
    code: str,
    param: str | None,
) -> None:
    usual: dict[str, dict[str, Any]] = {
        "chat.completions.create": {"model": REAL, "messages": asks("Say yes.")},
        "responses.create": {"model": REAL, "input": "Say yes."},
        "embeddings.create": {"input": "yes"},
    }
    with pytest.raises(SdkError) as refused:
        openai(method, **usual.get(method, {}) | changes)
    error = refused.value
    assert (error.exception, error.status, error.code, error.param) == (exception, status, code, param)
    assert error.type == "invalid_request_error"
    assert error.body["message"]


@pytest.mark.parametrize(
    ("script", "exception", "status", "code"),
    [
        ({"status": 400, "body": {"error": {"message": "zebra"}}}, "BadRequestError", 400, "invalid_prompt"),
        ({"text": "zebra" * 2001}, "BadRequestError", 400, "result_too_large"),
    ],
)
def test_a_model_that_refuses(
    openai: OpenAI, client: Client, script: dict[str, Any], exception: str, status: int, code: str
) -> None:
    with pytest.raises(SdkError) as refused:
        openai("chat.completions.create", model="scripted", messages=asks(json.dumps(script)))
    error = refused.value
    assert (error.exception, error.status, error.code) == (exception, status, code)
    assert "zebra" not in str(error)
    # It failed once, and the client did not repeat it.
    shown = client.get(f"/status/{request_id_of({'id': error.body['response_id']})}").body
    assert shown["status"] == "failed"


def test_keys_that_may_not(openai: OpenAI, stack: Stack) -> None:
    reader = stack.admin("key.create", user_id="demo", scopes=["read"])["api_key"]
    revoked = stack.admin("key.create", user_id="demo")
    stack.admin("key.revoke", key_id=revoked["key_id"])
    found = []
    for key in (reader, revoked["api_key"], "sluice_" + "z" * 43, "sk-somebody-else's"):
        with pytest.raises(SdkError) as refused:
            openai.with_key(key)("chat.completions.create", model=REAL, messages=asks("Say yes."))
        found.append((refused.value.exception, refused.value.status, refused.value.code))
    assert found == [
        ("PermissionDeniedError", 403, "insufficient_permissions"),
        *[("AuthenticationError", 401, "invalid_api_key")] * 3,
    ]


def test_quotas(openai: OpenAI, stack: Stack) -> None:
    user = f"frugal-{uuid4().hex[:8]}"
    stack.admin("user.create", user_id=user)
    frugal = openai.with_key(stack.admin("key.create", user_id=user)["api_key"]).with_options(max_retries=0)

    def refusal() -> tuple[Any, ...]:
        for _ in range(3):  # the minute may end between the first two
            try:
                frugal("chat.completions.create", model="scripted", messages=asks(says("fine")))
            except SdkError as refused:
                return refused.exception, refused.status, refused.code
        return ()

    stack.admin("quota.set", user_id=user, limits={"minute": {"max_requests": 1}})
    assert refusal() == ("RateLimitError", 429, "rate_limit_exceeded")
    stack.admin("quota.set", user_id=user, limits={"minute": {"max_requests": 100}, "monthly": {"max_requests": 1}})
    assert refusal() == ("RateLimitError", 429, "insufficient_quota")


def test_limits_are_in_the_headers(openai: OpenAI) -> None:
    answer = openai("chat.completions.with_raw_response.create", model="scripted", messages=asks(says("fine")))
    assert answer["parsed"]["choices"][0]["message"]["content"] == "fine"
    assert answer["retries"] == 0
    headers = answer["headers"]
    assert 0 <= int(headers["x-ratelimit-remaining-requests"]) < int(headers["x-ratelimit-limit-requests"])


# Everything is in the ledger ------------------------------------------------------------------------------------------


def test_what_was_asked_is_seen_everywhere(openai: OpenAI, stack: Stack, info: StackInfo, sluice: Any) -> None:
    user = f"tagged-{uuid4().hex[:8]}"
    stack.admin("user.create", user_id=user)
    key = stack.admin("key.create", user_id=user)["api_key"]
    tagged = openai.with_key(key)
    chat = tagged("chat.completions.create", model="scripted", messages=asks(says("fine")), metadata={"project": "a"})
    response = tagged("responses.create", model="scripted", input=says("fine"), metadata={"project": "b"})
    later = tagged("responses.create", model="scripted", input=says("fine"), background=True, metadata={"project": "b"})
    ended(tagged, later)

    assert response["metadata"] == {"project": "b"}
    ids = [request_id_of(each) for each in (chat, response, later)]
    native = Client(info.api_url, key)
    assert [each["request_id"] for each in native.get("/requests").body["requests"]] == ids[::-1]
    for request_id in ids:
        shown = sluice("requests", "show", request_id)
        assert (shown["status"], shown["user_id"], shown["model_id"]) == ("completed", user, "scripted")
    (month,) = native.get("/usage?by_tag=project").body["months"]
    assert month["requests"] == 3
    assert {each["tag_value"]: each["requests"] for each in month["tags"]} == {"a": 1, "b": 2}
    (month,) = sluice("usage", "show", user, "--by-tag", "project")["months"]
    assert {each["tag_value"]: each["total_tokens"] for each in month["tags"]} == {"a": 10, "b": 20}


def test_the_books_are_clean(sluice: Any) -> None:
    sluice("rollup", "usage", "stats", "audit")
    assert sluice("verify", "--full")["balanced"]
