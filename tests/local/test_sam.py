"""`python -m local sam` where it cannot do anything: one line, and another exit code than 0."""

import json
from pathlib import Path

import pytest

from local.__main__ import main

INFO = {"container_address": None}


def test_without_a_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sam", "--state", str(tmp_path), "start-api"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "make run RUN=--containers" in error


def test_with_a_stack_that_containers_do_not_reach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stack.json").write_text(json.dumps(INFO))
    assert main(["sam", "--state", str(tmp_path), "invoke", "SubmitFunction"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "127.0.0.1 only" in error


def test_with_a_runtime_that_lambda_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["sam", "--state", str(tmp_path), "--runtime", "python2.7", "start-api"])
    assert refused.value.code == 2
    assert "python3.13" in capsys.readouterr().err
