"""`sluice models set --mapping`: a mapping of a SageMaker endpoint, read from a file."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Deployment, fields, run

MAPPING = {
    "request": {"inputs": "{{prompt}}"},
    "response": {"text": "a", "prompt_tokens": "b", "completion_tokens": "c"},
}


def test_a_mapping_is_read_from_a_file(deployment: Deployment) -> None:
    Path("mapping.json").write_text(json.dumps(MAPPING), encoding="utf-8")
    line = "models set llama --backend sagemaker --backend-model llama-endpoint --mapping mapping.json"
    done = deployment.run(*line.split(), answers={"model_id": "llama", "mapping": MAPPING})
    assert done.exit_code == 0, done.stderr
    assert json.loads(fields(done.stdout)["mapping"]) == MAPPING
    (asked,) = deployment.asked
    assert asked.arguments == {
        "model_id": "llama",
        "backend": "sagemaker",
        "backend_model": "llama-endpoint",
        "mapping": MAPPING,
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "'m.json' is not a file of JSON without repeated members (line 1: Expecting property name"),
        (b'{\n"request": {}\n"response": {}}', "(line 3: Expecting ',' delimiter)"),
        (b'{"a": {"b": 1, "b": 2}}', "'m.json' is not a file of JSON without repeated members."),
        (b"[" * 100_000, "'m.json' is not a file of JSON"),
        (b"[]", "'m.json' is not a file with a JSON object that has members."),
        (b"{}", "'m.json' is not a file with a JSON object that has members."),
        (b"\xff", "'m.json' is not a file that can be read as text in UTF-8."),
        (None, "'m.json' is not a file that can be read as text in UTF-8."),
    ],
)
def test_a_file_that_holds_no_mapping_is_refused_in_one_line(
    deployment: Deployment, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        Path("m.json").write_bytes(content)
    done = run("models", "set", "llama", "--mapping", "m.json")
    assert done.exit_code == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert deployment.asked == []


def test_a_mapping_is_set_or_removed(deployment: Deployment) -> None:
    Path("m.json").write_text(json.dumps(MAPPING), encoding="utf-8")
    done = run("models", "set", "llama", "--mapping", "m.json", "--no-mapping")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        2,
        "Error: --mapping and --no-mapping cannot be combined.",
    )
    assert deployment.asked == []
