"""Failures of a command, each as one line that says what went wrong and what to do."""

import json
from collections.abc import Mapping
from typing import Any

from botocore import exceptions as aws

from sluice_cli.tables import printable

_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.SSOError,
    aws.TokenRetrievalError,
)
_BAD_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_DENIED = {"AccessDenied", "AccessDeniedException"}
_THROTTLED = {"Throttling", "ThrottlingException", "TooManyRequestsException"}


class CommandError(Exception):
    """A command failed: exit code 1.

    Args:
        code: the kind of failure, for programs.
        detail: what went wrong and what to do, in one line.
    """

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = printable(" ".join(detail.split()))
        super().__init__(self.detail)

    def as_json(self) -> str:
        """Return the failure for programs: an object with at least `code` and `detail`."""
        return json.dumps({"code": self.code, "detail": self.detail})


class RefusedError(CommandError):
    """The admin function refused an operation, with problem details (RFC 9457)."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem = dict(problem)
        detail = str(problem.get("detail") or problem.get("title") or "The admin function refused, without a reason.")
        # The detail may contain some of them already.
        more = [each for each in _specifics(problem) if each.rstrip(".") not in detail]
        super().__init__(str(problem.get("code", "refused")), " ".join([detail, *more]))

    def as_json(self) -> str:
        """Return the problem object unchanged."""
        return json.dumps(self.problem)


def aws_error(error: Exception, *, action: str, unreachable: str, unanswered: str = "Try again.") -> CommandError:
    """Convert an exception of boto3 to a CommandError.

    Args:
        error: the exception.
        action: the attempted action, as IAM names it.
        unreachable: what to do if nothing answers.
        unanswered: what to do if the call was made and no answer came.
    """
    match error:
        case aws.ClientError():
            return _client_error(error, action)
        case aws.ProfileNotFound(kwargs={"profile": profile}):
            return CommandError("profile_unknown", f"There is no AWS profile {profile}: choose one with --profile.")
        case aws.NoRegionError():
            return CommandError(
                "region_missing", "No AWS region is set: name it with --region, or set AWS_DEFAULT_REGION."
            )
        case _ if isinstance(error, _NO_CREDENTIALS):
            return CommandError(
                "no_credentials", f"AWS credentials are missing: log in, or name a --profile. ({error})"
            )
        case aws.ConnectTimeoutError() | aws.EndpointConnectionError():
            return CommandError("unreachable", f"Nothing answers at {error.kwargs['endpoint_url']}. {unreachable}")
        case aws.ReadTimeoutError():
            return CommandError("timeout", f"The answer to {action} did not come in time. {unanswered}")
        case aws.ConnectionClosedError() | aws.IncompleteReadError() | aws.ResponseStreamingError():
            return CommandError("connection_lost", f"The connection was lost before the answer came. {unanswered}")
        case aws.HTTPClientError():
            return CommandError("unreachable", f"The connection failed: {error}. {unreachable}")
        case _:
            return CommandError("aws_failed", f"{action} failed: {error}")


def _client_error(error: aws.ClientError, action: str) -> CommandError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message") or error)
    if code in _DENIED:
        return CommandError(
            "access_denied", f"AWS denies {action}: these credentials need that permission. ({message})"
        )
    if code in _BAD_CREDENTIALS:
        return CommandError("no_credentials", f"AWS rejects these credentials: log in again. ({message})")
    if code in _THROTTLED:
        return CommandError("throttled", f"AWS throttled the call and nothing was done: try again. ({message})")
    return CommandError("aws_failed", f"{action} failed: {code}: {message}")


def _specifics(problem: Mapping[str, Any]) -> list[str]:
    """List what a problem holds beyond its detail: the invalid arguments, the failed tasks."""
    found: list[str] = []
    errors = problem.get("errors")
    if isinstance(errors, list):
        found += [
            f"{each.get('pointer', '')}: {each.get('detail', '')}".removeprefix(": ")
            for each in errors
            if isinstance(each, Mapping)
        ]
    failed = problem.get("failed")
    if isinstance(failed, Mapping):
        found += [f"{task}: {reason}" for task, reason in failed.items()]
    return found
