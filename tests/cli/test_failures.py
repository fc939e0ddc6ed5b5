"""A failure is one line that says what to do, with exit code 1; no operation is ever retried."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import Result

from sluice_cli import session
from sluice_cli.errors import CommandError
from sluice_cli.target import AdminFunction, local_function
from tests.cli.conftest import FUNCTION, Deployment, ok, refused, run, write_stack_file
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer


def line(done: Result) -> str:
    """The one line that a failed command prints."""
    assert done.exit_code == 1
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("sluice: ")
    return said.removeprefix("sluice: ")


# Refusals and failures of the function -------------------------------------------------------------------------------


def test_refusal_prints_its_detail(deployment: Deployment) -> None:
    done = deployment.run("users", "show", "bob", answers=(refused("user_not_found", "There is no user bob."),))
    assert line(done) == "There is no user bob."


def test_refusal_names_every_invalid_argument(deployment: Deployment) -> None:
    errors = [{"pointer": "/email", "detail": "Too long."}, {"pointer": "/tier", "detail": "Unknown."}]
    done = deployment.run("users", "list", answers=(refused("invalid_input", "Not valid.", errors=errors),))
    assert line(done) == "Not valid. /email: Too long. /tier: Unknown."


def test_refusal_repeats_nothing_of_its_detail(deployment: Deployment) -> None:
    errors = [{"pointer": "/email", "detail": "Too long"}, {"pointer": "/tier", "detail": "Unknown"}]
    done = deployment.run("users", "list", answers=(refused("invalid_input", "/email: Too long.", errors=errors),))
    assert line(done) == "/email: Too long. /tier: Unknown"


def test_failed_tasks_are_shown_with_reasons(deployment: Deployment) -> None:
    answer = refused("task_failed", "Failed: usage.", failed={"usage": "No\nlock."}, done={})
    assert line(deployment.run("rollup", "usage", answers=(answer,))) == "Failed: usage. usage: No lock."


def test_refusal_as_json_is_the_problem_object(deployment: Deployment) -> None:
    answer = refused("user_not_found", "There is no user bob.", more=[1])
    done = deployment.run("users", "show", "bob", "--json", answers=(answer,))
    assert (done.exit_code, done.stdout) == (1, "")
    assert json.loads(done.stderr) == answer.body["problem"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out after 330.00 seconds"},
            "Sandbox.Timedout: Task timed out after 330.00 seconds.",
        ),
        (
            {"errorMessage": "Two\nlines", "errorType": "ValueError", "stackTrace": ["  File x"]},
            "ValueError: Two lines.",
        ),
        ({"errorMessage": "Only this"}, "Only this."),
        (b"not JSON", "not JSON."),
    ],
)
def test_function_error_names_the_log(deployment: Deployment, body: object, said: str) -> None:
    answer = Reply(body=body, headers={"X-Amz-Function-Error": "Unhandled"})
    expected = f"The admin function failed: {said} Its log: .local/logs/functions/admin.log"
    assert line(deployment.run("users", "list", answers=(answer,))) == expected


@pytest.mark.parametrize("body", [b"", b"null", b"<html>", {"statusCode": 200}, {"ok": False}, {"ok": True}])
def test_answer_of_another_function_is_detected(deployment: Deployment, body: object) -> None:
    assert "not Sluice's admin function" in line(deployment.run("users", "list", answers=(Reply(body=body),)))


# No stack to call -----------------------------------------------------------------------------------------------------


def suggests_both_ways(said: str) -> bool:
    return "`make run`" in said and "--stack" in said


def test_no_local_stack() -> None:
    said = line(run("users", "list"))
    assert suggests_both_ways(said)
    assert ".local/stack.json" in said


def test_state_option_selects_another_folder(server: ScriptedServer, tmp_path: Path) -> None:
    write_stack_file(tmp_path / "other", server.url)
    server.replies(ok([]))
    assert run("users", "list", "--state", "other").exit_code == 0
    assert "elsewhere" in line(run("--state", "elsewhere", "users", "list"))


@pytest.mark.parametrize("content", ["", "{}", "[]", '"text"', '{"functions": null}', '{"aws_endpoint_url": "x"}'])
def test_invalid_stack_file(content: str) -> None:
    Path(".local").mkdir()
    Path(".local/stack.json").write_text(content, encoding="utf-8")
    assert suggests_both_ways(line(run("users", "list")))


def test_stack_file_is_a_folder() -> None:
    Path(".local/stack.json").mkdir(parents=True)
    assert suggests_both_ways(line(run("users", "list")))


def test_stack_is_no_longer_running() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        write_stack_file(Path(".local"), url)
        said = line(run("users", "list"))
    assert said.startswith(f"Nothing answers at {url}")
    assert suggests_both_ways(said)


def test_failures_as_json(deployment: Deployment) -> None:
    Path(".local/stack.json").unlink()
    done = run("--json", "users", "list")
    assert (done.exit_code, done.stdout) == (1, "")
    assert json.loads(done.stderr)["code"] == "stack_missing"
    assert suggests_both_ways(json.loads(done.stderr)["detail"])


# No retries -----------------------------------------------------------------------------------------------------------


def test_lost_connection_is_not_retried(deployment: Deployment) -> None:
    said = line(deployment.run("keys", "create", "alice", answers=(Exchange.hang_up, ok({}))))
    assert "check before you repeat it" in said
    assert len(deployment.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_lambda_error_is_not_retried(deployment: Deployment, status: int) -> None:
    error = Reply(status, {"Message": "Rate exceeded"}, {"x-amzn-errortype": "TooManyRequestsException"})
    said = line(deployment.run("keys", "create", "alice", answers=(error, ok({}))))
    assert "nothing was done" in said
    assert len(deployment.asked) == 1


def test_timeout_is_not_retried(deployment: Deployment) -> None:
    deployment.server.replies(Exchange.wait, ok({}))
    with pytest.raises(CommandError, match="check before you repeat it") as caught:
        local_function(Path(".local"), read_timeout=0.1).run("key.create", {"user_id": "alice"})
    assert caught.value.code == "timeout"
    assert len(deployment.asked) == 1


@pytest.mark.parametrize(
    ("command", "seconds"), [("verify", 340), ("rollup usage", 340), ("users show a", 60), ("audit list", 60)]
)
def test_read_timeout_fits_the_operation(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, command: str, seconds: int
) -> None:
    functions: list[AdminFunction] = []

    def find(state: Path, read_timeout: float) -> AdminFunction:
        functions.append(local_function(state, read_timeout))
        return functions[0]

    monkeypatch.setattr(session, "local_function", find)
    assert deployment.run(*command.split(), answers={"balanced": True}).exit_code == 0
    assert functions[0].client.meta.config.read_timeout == seconds  # type: ignore[attr-defined]


def test_local_stack_ignores_the_environment(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "none-such")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    Path("config").write_text("not a configuration file", encoding="utf-8")
    assert deployment.run("users", "list", answers=[]).exit_code == 0
    assert "Credential=local/" in deployment.server.received[0].headers["authorization"]
    assert FUNCTION in deployment.server.received[0].path
