"""Through the deployed stack: inputs that are too large for the database, from OpenAI's client to the model's server."""

import base64
import json
from typing import Any
from uuid import uuid4

import psycopg

from tests.support.openai_clients import OpenAI
from tests.support.scripted_model import ScriptedModel

IMAGE = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 4000).decode()


def conversation(part: str, word: str) -> list[Any]:
    script = json.dumps({"turns": [{"text": word}, {"text": "again"}]})
    image = {"type": "image_url", "image_url": {"url": IMAGE}}
    if part == "input":
        return [{"type": "input_text", "text": script}, {"type": "input_image", "image_url": IMAGE, "detail": "auto"}]
    return [{"type": "text", "text": script}, image]


def test_a_large_image_reaches_the_model(
    openai: OpenAI, scripted_model: ScriptedModel, database: psycopg.Connection[dict[str, Any]]
) -> None:
    word = f"seen-{uuid4().hex}"
    done = openai(
        "chat.completions.create", model="seeing", messages=[{"role": "user", "content": conversation("chat", word)}]
    )
    assert done["choices"][0]["message"]["content"] == word
    (asked,) = scripted_model.asked_about(word)
    assert asked["messages"][0]["content"][1]["image_url"]["url"] == IMAGE
    row = database.execute(
        "SELECT o.byte_length, octet_length(p.input::text) AS kept FROM sluice.objects o"
        " JOIN sluice.prompts p USING (request_id) WHERE o.object_class = 'inputs' ORDER BY o.request_id DESC LIMIT 1"
    ).fetchone()
    assert row is not None
    assert row["byte_length"] > len(IMAGE)
    assert row["kept"] < 2000


def test_a_response_with_a_large_image_is_shown_and_continued(openai: OpenAI, scripted_model: ScriptedModel) -> None:
    word = f"continued-{uuid4().hex}"
    asked = [{"role": "user", "content": conversation("input", word)}]
    done = openai("responses.create", model="seeing", input=asked)
    assert done["output_text"] == word
    (item,) = openai("responses.input_items.list", response_id=done["id"])
    assert item["content"][1]["image_url"] == IMAGE
    more = openai("responses.create", model="seeing", input="And now?", previous_response_id=done["id"])
    assert more["output_text"] == "again"
    assert scripted_model.asked_about(word)[-1]["messages"][0]["content"][1]["image_url"]["url"] == IMAGE
