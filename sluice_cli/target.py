"""Find and call a deployment's admin function, on the local stack or in an AWS account."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sluice_cli.errors import CommandError, RefusedError, aws_error
from sluice_cli.isolation import isolated_session

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

_CONNECT_SECONDS = 10
_OUTPUT = "AdminFunctionName"
_UNCERTAIN = "The operation may have been carried out, or may still be running: check before you repeat it."
_START_OR_NAME = "Start the local stack with `make run`, or name a stack in AWS with --stack."


@dataclass(frozen=True)
class AdminFunction:
    """A deployment's admin function.

    Attributes:
        client: of Lambda.
        name: its name in Lambda.
        unreachable: what to do if nothing answers, for people.
        logs: where its log is, for people.
    """

    client: "LambdaClient"
    name: str
    unreachable: str
    logs: str

    def run(self, operation: str, arguments: Mapping[str, object]) -> Any:
        """Run an operation, without retries, and return its result.

        Raises:
            RefusedError: the function refused the operation.
            CommandError: anything else went wrong.
        """
        payload = json.dumps({"operation": operation, "arguments": arguments})
        try:
            answer = self.client.invoke(FunctionName=self.name, Payload=payload)
            text = answer["Payload"].read().decode("utf-8", "replace")
        except (BotoCoreError, ClientError) as error:
            action = f"lambda:InvokeFunction on {self.name}"
            raise aws_error(error, action=action, unreachable=self.unreachable, unanswered=_UNCERTAIN) from error
        if answer.get("FunctionError"):
            raise CommandError("function_failed", f"The admin function failed: {_reason(text)} Its log: {self.logs}")
        return self._result(text)

    def _result(self, text: str) -> Any:
        match _parsed(text):
            case {"ok": True, "result": result}:
                return result
            case {"ok": False, "problem": dict(problem)}:
                raise RefusedError(problem)
        raise CommandError("answer_unknown", f"{self.name} is not Sluice's admin function: it answered {text[:200]!r}.")


def local_function(state: Path, read_timeout: float) -> AdminFunction:
    """Find the admin function of the local stack in a folder.

    Raises:
        CommandError: no stack runs there.
    """
    file = state / "stack.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        region, endpoint, name = info["region"], info["aws_endpoint_url"], info["functions"]["admin"]
        access_key, secret_key = info["aws_access_key_id"], info["aws_secret_access_key"]
    except FileNotFoundError:
        raise CommandError("stack_missing", f"No local stack runs here: there is no {file}. {_START_OR_NAME}") from None
    except OSError as error:
        raise CommandError("stack_missing", f"{file} cannot be read: {error.strerror}. {_START_OR_NAME}") from None
    except (ValueError, LookupError, TypeError):
        raise CommandError("stack_missing", f"{file} is not what `make run` writes. {_START_OR_NAME}") from None
    client = boto3.Session(botocore_session=isolated_session()).client(
        "lambda",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=_without_retries(read_timeout).merge(Config(proxies={})),
    )
    return AdminFunction(client, name, unreachable=_START_OR_NAME, logs=f"{state / 'logs' / 'functions' / 'admin.log'}")


def account_function(stack: str, region: str | None, profile: str | None, read_timeout: float) -> AdminFunction:
    """Find the admin function that a CloudFormation stack names in its outputs.

    Raises:
        CommandError: the stack or the output was not found, or AWS refused the call.
    """
    unreachable = "Is the region right, and the network up?"
    action = f"cloudformation:DescribeStacks of {stack}"
    try:
        session = boto3.Session(region_name=region, profile_name=profile)
        found = session.client("cloudformation", config=_with_retries()).describe_stacks(StackName=stack)["Stacks"][0]
        client = session.client("lambda", config=_without_retries(read_timeout))
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError" and "does not exist" in str(error):
            raise CommandError(
                "stack_unknown", f"There is no stack {stack} in this account and region: see --region and --profile."
            ) from None
        raise aws_error(error, action=action, unreachable=unreachable) from error
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is not a URL
        raise aws_error(error, action=action, unreachable=unreachable) from error
    for output in found.get("Outputs", []):
        if output["OutputKey"] == _OUTPUT:
            name = output["OutputValue"]
            return AdminFunction(client, name, unreachable, logs=f"the log group /aws/lambda/{name}")
    raise CommandError(
        "stack_unknown",
        f"The stack {stack} ({found['StackStatus']}) has no output {_OUTPUT}: it is not Sluice, or not ready.",
    )


def _with_retries() -> Config:
    return Config(retries={"total_max_attempts": 3, "mode": "standard"}, connect_timeout=_CONNECT_SECONDS)


def _without_retries(read_timeout: float) -> Config:
    # A call whose answer was lost is not repeated: it could create a second key. Keep-alive, because some networks drop
    # connections that are idle for minutes.
    return Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=read_timeout,
        tcp_keepalive=True,
    )


def _reason(text: str) -> str:
    """Return why a function failed, from Lambda's answer: it raised, timed out or could not start."""
    match _parsed(text):
        case {"errorType": kind, "errorMessage": message}:
            return f"{kind}: {message}."
        case {"errorMessage": message}:
            return f"{message}."
    return f"{text[:200]}."


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
