"""A stack in an AWS account: found through CloudFormation and called through Lambda; failures of AWS."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import FUNCTION, ok, run, write_stack_file
from tests.cli.test_failures import line
from tests.unit.scripted_server import Reply, ScriptedServer

NAMESPACE = "http://cloudformation.amazonaws.com/doc/2010-05-15/"


def described(outputs: dict[str, str], status: str = "UPDATE_COMPLETE") -> Reply:
    members = "".join(
        f"<member><OutputKey>{key}</OutputKey><OutputValue>{value}</OutputValue></member>"
        for key, value in outputs.items()
    )
    body = f"""<DescribeStacksResponse xmlns="{NAMESPACE}"><DescribeStacksResult><Stacks><member>
        <StackName>production</StackName><CreationTime>2027-01-01T00:00:00Z</CreationTime>
        <StackStatus>{status}</StackStatus><Outputs>{members}</Outputs>
        </member></Stacks></DescribeStacksResult></DescribeStacksResponse>"""
    return Reply(body=body.encode(), headers={"Content-Type": "text/xml"})


def cloudformation_error(status: int, code: str, message: str) -> Reply:
    body = f"""<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>
        <Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"""
    return Reply(status, body.encode(), {"Content-Type": "text/xml"})


DESCRIBED = described({"ApiUrl": "https://example.com", "AdminFunctionName": FUNCTION})


@pytest.fixture
def aws(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """An account, with credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return server


def regions(aws: ScriptedServer) -> list[str]:
    """The region and service for which each request was signed."""
    credentials = [received.headers["authorization"].split("Credential=")[1] for received in aws.received]
    return ["/".join(credential.split("/")[2:4]) for credential in credentials]


def test_calls_the_function_in_the_outputs_of_the_stack(aws: ScriptedServer) -> None:
    aws.replies(DESCRIBED, ok([]))
    assert run("--stack", "production", "users", "list").exit_code == 0
    described, invoked = aws.received
    assert b"Action=DescribeStacks" in described.body
    assert b"StackName=production" in described.body
    assert invoked.path == f"/2015-03-31/functions/{FUNCTION}/invocations"
    assert invoked.json == {"operation": "user.list", "arguments": {"limit": 500}}
    assert regions(aws) == ["us-east-1/cloudformation", "us-east-1/lambda"]


def test_looks_up_the_stack_once_for_many_pages(aws: ScriptedServer) -> None:
    aws.replies(DESCRIBED, ok({"entries": [], "next_cursor": "1"}), ok({"entries": [], "next_cursor": None}))
    assert run("--stack", "production", "audit", "list").exit_code == 0
    assert len(aws.received) == 3


def test_accepts_shared_options_after_the_subcommand(aws: ScriptedServer) -> None:
    aws.replies(DESCRIBED, ok({}))
    done = run("--region", "us-west-1", "users", "show", "a", "--stack", "production", "--region", "eu-west-1")
    assert done.exit_code == 0
    assert regions(aws) == ["eu-west-1/cloudformation", "eu-west-1/lambda"]


def test_profile_sets_the_region(aws: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    Path("config").write_text(
        "[profile work]\nregion = eu-north-1\naws_access_key_id = of-work\naws_secret_access_key = x\n",
        encoding="utf-8",
    )
    aws.replies(DESCRIBED, ok({}))
    assert run("--profile", "work", "--stack", "production", "users", "show", "a").exit_code == 0
    assert regions(aws)[1] == "eu-north-1/lambda"
    assert "Credential=of-work/" in aws.received[1].headers["authorization"]


def test_environment_variable_names_the_stack(aws: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STACK", "from-the-environment")
    aws.replies(DESCRIBED, ok({}))
    assert run("users", "show", "a").exit_code == 0
    assert b"StackName=from-the-environment" in aws.received[0].body

    aws.replies(DESCRIBED, ok({}))
    assert run("--stack", "named", "users", "show", "a").exit_code == 0
    assert b"StackName=named" in aws.received[2].body

    write_stack_file(Path("here"), aws.url)
    aws.replies(ok({}))
    assert run("users", "show", "a", "--state", "here").exit_code == 0
    assert len(aws.received) == 5


def lambda_error(status: int, kind: str) -> Reply:
    return Reply(status, {"Message": "What AWS says."}, {"x-amzn-errortype": kind})


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            [cloudformation_error(400, "ValidationError", "Stack with id production does not exist")],
            "There is no stack production in this account and region: see --region and --profile.",
        ),
        (
            [described({"ApiUrl": "x"}, "CREATE_IN_PROGRESS")],
            (
                "The stack production (CREATE_IN_PROGRESS) has no output AdminFunctionName: "
                "it is not Sluice, or not ready."
            ),
        ),
        (
            [cloudformation_error(403, "AccessDenied", "Not you.")],
            "AWS denies cloudformation:DescribeStacks of production: these credentials need that permission. (Not you.)",
        ),
        (
            [cloudformation_error(403, "InvalidClientTokenId", "Bad token.")],
            "AWS rejects these credentials: log in again. (Bad token.)",
        ),
        (
            [cloudformation_error(400, "ValidationError", "Odd name.")],
            "cloudformation:DescribeStacks of production failed: ValidationError: Odd name.",
        ),
        (
            [DESCRIBED, lambda_error(403, "AccessDeniedException")],
            f"AWS denies lambda:InvokeFunction on {FUNCTION}: these credentials need that permission. (What AWS says.)",
        ),
        (
            [DESCRIBED, lambda_error(403, "ExpiredTokenException")],
            "AWS rejects these credentials: log in again. (What AWS says.)",
        ),
        (
            [DESCRIBED, lambda_error(404, "ResourceNotFoundException")],
            f"lambda:InvokeFunction on {FUNCTION} failed: ResourceNotFoundException: What AWS says.",
        ),
    ],
)
def test_failures_of_aws_calls(aws: ScriptedServer, answers: list[Reply], said: str) -> None:
    aws.replies(*answers)
    assert line(run("--stack", "production", "users", "list")) == said


def test_failure_names_the_log_group(aws: ScriptedServer) -> None:
    aws.replies(DESCRIBED, Reply(body={"errorMessage": "Oh"}, headers={"X-Amz-Function-Error": "Unhandled"}))
    said = line(run("--stack", "production", "users", "list"))
    assert said == f"The admin function failed: Oh. Its log: the log group /aws/lambda/{FUNCTION}"


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def with_partial_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def without_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")


def with_unknown_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "none-such")


def with_invalid_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")


def with_unreachable_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_credentials, "AWS credentials are missing"),
        (with_partial_credentials, "AWS credentials are missing"),
        (without_region, "No AWS region is set: name it with --region"),
        (with_unknown_profile, "There is no AWS profile none-such"),
        (with_invalid_endpoint, "Invalid endpoint: nowhere"),
        (with_unreachable_endpoint, "Nothing answers at http://127.0.0.1:1/"),
    ],
)
def test_missing_configuration(
    aws: ScriptedServer, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    change(monkeypatch)
    assert said in line(run("--stack", "production", "users", "list"))
    assert aws.received == []


def test_unreadable_configuration_file(aws: ScriptedServer) -> None:
    Path("config").write_text("not a configuration file", encoding="utf-8")
    assert "config" in line(run("--stack", "production", "users", "list"))
