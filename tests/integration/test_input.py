"""What an input has of what costs tokens: Python and the database count the same."""

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from psycopg.types.json import Jsonb

from sluice.domain.documents import ImagePart, Input, Message, SpeechOptions, TextPart, TokensPart, ToolCall
from tests.support.inputs import INPUTS
from tests.support.service import Service

COUNTED = "SELECT input_bytes(d), input_extra_items(d), input_image_count(d) FROM (SELECT %s::jsonb AS d) AS one"


def of_one(*content: Any, **more: Any) -> Input:
    return Input(messages=(Message(role="user", content=content, **more),))


# The database has a faster way for one message of one text, which these must not take.
@example(Input.of_prompt("plain"))
@example(of_one(ImagePart(type="image", url="https://images.example/1")))
@example(of_one(TokensPart(type="tokens", tokens=(1, 2, 3))))
@example(of_one(TextPart(text="a"), tool_calls=(ToolCall(id="1", name="look", arguments="{}"),)))
@example(Input.of_prompt("a").model_copy(update={"instructions": "be brief"}))
@example(Input.of_prompt("a").model_copy(update={"instructions": ""}))
@example(Input.of_prompt("a").model_copy(update={"speech": SpeechOptions(voice="v", instructions="größe")}))
@example(of_one())
@given(INPUTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True)
def test_both_count_the_same(service: Service, asked: Input) -> None:
    (counted,) = service.rows(COUNTED, Jsonb(asked.to_json()))
    assert tuple(counted.values()) == (asked.byte_length, asked.extra_items, asked.image_count)


@pytest.mark.parametrize("asked", [{}, {"messages": []}, {"messages": None}, {"messages": {}}])
def test_an_input_without_messages_is_refused(service: Service, asked: dict[str, Any]) -> None:
    with pytest.raises(psycopg.Error):
        service.rows("SELECT input_bytes(%s)", Jsonb(asked))
