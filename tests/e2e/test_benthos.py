"""examples/benthos on the deployed stack, run by its own engine: each line is a request and a result, once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from local.processes import wait_until
from local.stack import Stack
from tests.support.benthos import Pipeline, lines, prompts, run

Database = psycopg.Connection[dict[str, Any]]
MANY = 1000


@pytest.fixture
def user(stack: Stack) -> dict[str, str]:
    """A user of the test's own, as the pipelines' variables name it."""
    name = f"benthos-{uuid4().hex}"
    stack.admin("user.create", user_id=name, tier="premium")
    key = stack.admin("key.create", user_id=name)["api_key"]
    return {"SLUICE_URL": stack.info.api_url, "SLUICE_KEY": key, "SLUICE_USER": name}


def asks_for(text: str) -> str:
    """A prompt that the scripted model answers with this text."""
    return f'{{"text": "{text}"}}'


def ledger(database: Database, user: dict[str, str]) -> list[dict[str, Any]]:
    return database.execute(
        "SELECT r.request_id::text, r.status, p.prompt FROM requests r JOIN prompts p USING (request_id)"
        " WHERE r.user_id = %s",
        [user["SLUICE_USER"]],
    ).fetchall()


@pytest.mark.slow
def test_a_thousand_prompts_are_requests_and_results_once_though_the_pipelines_are_killed(
    database: Database, user: dict[str, str], tmp_path: Path
) -> None:
    prompts(tmp_path, *({"prompt": asks_for(f"answer {n}"), "model": "scripted"} for n in range(MANY)))

    def killed_in_the_middle(pipeline: str, written: str) -> None:
        first = Pipeline(pipeline, tmp_path, **user)
        assert wait_until(lambda: first.process.poll() is not None or len(lines(tmp_path, written)) > MANY // 4, 60)
        first.kill()
        assert MANY // 4 < len(lines(tmp_path, written)) < MANY
        run(pipeline, tmp_path, **user)

    killed_in_the_middle("submit", "accepted")
    killed_in_the_middle("collect", "results")
    booked = ledger(database, user)
    assert Counter(each["prompt"] for each in booked) == {asks_for(f"answer {n}"): 1 for n in range(MANY)}
    assert {each["status"] for each in booked} == {"completed"}
    results = lines(tmp_path, "results")
    assert {each["request_id"] for each in results} == {each["request_id"] for each in booked}
    assert {each["line"]: each["result"] for each in results} == {n + 1: f"answer {n}" for n in range(MANY)}
    assert len(results) == len(lines(tmp_path, "accepted")) == MANY
    assert not lines(tmp_path, "refused") + lines(tmp_path, "uncollected")


def test_what_is_refused_has_a_file_of_its_own_and_is_taken_once_it_is_mended(
    database: Database, user: dict[str, str], tmp_path: Path
) -> None:
    good = {"prompt": asks_for("fine"), "model": "scripted", "id": "the good one, été"}
    other = {"prompt": asks_for("other"), "model": "scripted"}
    bad = ["no JSON", {"prompt": ""}, "", '["a list"]', {"prompt": "x", "colour": "red"}]
    wrong_key = {**user, "SLUICE_KEY": "sluice_" + "x" * 43}
    prompts(tmp_path, good, *bad, other)
    run("submit", tmp_path, **wrong_key)
    assert [each["code"] for each in lines(tmp_path, "refused")].count("line_not_json") == 2
    assert {each["line"] for each in lines(tmp_path, "refused")} == {1, 2, 3, 5, 6, 7}
    assert not lines(tmp_path, "accepted")

    (tmp_path / "out/refused.jsonl").unlink()
    run("submit", tmp_path, **user)
    assert {each["line"]: (each["code"], each["text"]) for each in lines(tmp_path, "refused")} == {
        2: ("line_not_json", "no JSON"),
        3: ("invalid_input", '{"prompt": ""}'),
        5: ("line_not_json", '["a list"]'),
        6: ("invalid_input", '{"prompt": "x", "colour": "red"}'),
    }

    # Mended by a program that writes a byte order mark and ends lines as Windows does. The first line is not sent again.
    bad[1] = {"prompt": asks_for("mended"), "model": "scripted"}
    prompts(tmp_path, "\ufeff" + json.dumps(good), *bad, other, end="\r\n")
    run("submit", tmp_path, **user)
    run("collect", tmp_path, **wrong_key)
    assert {each["code"] for each in lines(tmp_path, "uncollected")} == {"key_unknown"}
    assert not lines(tmp_path, "results")
    run("collect", tmp_path, **user)
    results = {each["name"]: (each["line"], each["result"]) for each in lines(tmp_path, "results")}
    assert results == {"the good one, été": (1, "fine"), "3": (3, "mended"), "7": (7, "other")}
    assert len(ledger(database, user)) == 3


def test_what_a_trusted_writer_inserts_is_collected_like_any_other(
    stack: Stack, database: Database, user: dict[str, str], tmp_path: Path
) -> None:
    prompts(tmp_path, *({"prompt": asks_for(f"answer {n}"), "model": "scripted"} for n in range(20)))
    run("insert", tmp_path, **user, SLUICE_DSN=stack.info.database_url)
    stack.invoke("rollup", {"tasks": ["recover"]})  # sends the messages, each minute; here at once
    run("collect", tmp_path, **user)
    results = lines(tmp_path, "results")
    assert sorted((each["line"], each["result"]) for each in results) == [(n + 1, f"answer {n}") for n in range(20)]
    assert Counter(each["request_id"] for each in results) == {each["request_id"]: 1 for each in ledger(database, user)}
