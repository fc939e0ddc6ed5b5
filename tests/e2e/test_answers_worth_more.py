"""Through the deployed stack: answers as JSON, from whichever model is up, given again, quoted before they run."""

import json
from typing import Any
from uuid import uuid4

import pytest

from local.stack import Stack
from tests.e2e.conftest import Client
from tests.support.openai_clients import OpenAI
from tests.support.scripted_model import ScriptedModel

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["name", "population"],
    "additionalProperties": False,
}
FITS = '{"name": "Oslo", "population": 717710}'


@pytest.fixture
def word() -> str:
    """What a prompt is about, for finding it among what the model was asked."""
    return uuid4().hex


def says(word: str, *texts: str) -> str:
    """A prompt that the scripted model answers with these texts, one after the other."""
    return json.dumps({"turns": [{"text": text} for text in texts], "about": word})


def test_the_real_model_answers_as_json(client: Client) -> None:
    request_id = client.submit(
        "Name a city and its population.", schema=SCHEMA, parameters={"max_tokens": 64, "temperature": 0}
    )
    done = client.wait(request_id)
    assert (done["status"], done["result_type"]) == ("completed", "json"), done
    assert set(done["result"]) == {"name", "population"}
    assert done["usage"]["total_tokens"] <= done["reserved_tokens"]


def test_an_answer_is_repaired_for_openais_client(openai: OpenAI, scripted_model: ScriptedModel, word: str) -> None:
    done = openai(
        "chat.completions.parse",
        model="scripted",
        messages=[{"role": "user", "content": says(word, "Oslo has 717,710.", FITS)}],
        response_format="City",
    )
    assert done["choices"][0]["message"]["parsed"] == json.loads(FITS)
    assert done["usage"]["total_tokens"] == 20
    first, second = scripted_model.asked_about(word)
    assert first["response_format"]["type"] == "json_schema"
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]


def test_another_model_answers_for_one_that_is_away(client: Client, word: str) -> None:
    request_id = client.submit(says(word, "here"), model="away", models=["scripted"])
    done = client.wait(request_id)
    assert (done["result"], done["model"], done["answered_by"]) == ("here", "away", "scripted")
    assert [each["cause"] for each in done["attempts"]] == ["model_unavailable", None]


def test_equal_questions_share_an_answer(client: Client, scripted_model: ScriptedModel, word: str) -> None:
    body: dict[str, Any] = {"model": "scripted", "parameters": {"temperature": 0}, "cache": {"max_age": 600}}
    prompt = says(word, "once")
    ids = [client.generate(prompt, **body).body["request_id"] for _ in range(20)]
    answers = [client.wait(each) for each in ids]
    again = client.generate(prompt, **body)

    assert {done["result"] for done in answers} == {"once"}
    assert (again.status, again.body["status"], again.headers["Cache-Status"]) == (200, "completed", "sluice; hit")
    assert client.get(f"/status/{again.body['request_id']}").body["result"] == "once"
    assert len(scripted_model.asked_about(word)) == 1
    assert client.call("DELETE", "/cache").body["forgotten"] >= 1
    assert client.generate(prompt, **body).headers["Cache-Status"] == "sluice; fwd=miss"


def test_a_quote_is_kept(client: Client, stack: Stack, word: str) -> None:
    stack.admin("model.set", model_id="scripted", prices={"prompt": "1", "completion": "2"})
    asked = json.dumps({"prompt": says(word, "ok"), "model": "scripted"}).encode()
    quoted = client.call("POST", "/quote", asked, {"content-type": "application/json"})
    assert (quoted.status, quoted.body["accepted"]) == (200, True), quoted
    most = quoted.body["bound"]["cost"]["amount"]
    done = client.wait(client.submit(says(word, "ok"), model="scripted", max_cost=most))
    assert done["quote"]["bound"] == quoted.body["bound"]
    assert float(done["quote"]["actual"]["cost"]["amount"]) <= float(most)
