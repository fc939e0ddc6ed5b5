"""Amazon Bedrock's Converse API, the same for all of its chat models."""

from collections.abc import Callable
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from sluice.backends.answers import Answer, byte_length, completion, failed_call
from sluice.backends.calls import arguments_text, made_call
from sluice.backends.converse import converse_request
from sluice.backends.protocol import ModelError
from sluice.backends.tokens import TokenReport, count, with_cache
from sluice.backends.upstream import reported_failure
from sluice.domain.requests import Claim, Completion

# What the SDK and this module raise for an answer that is not Converse's JSON.
_UNREADABLE: Final = (AttributeError, LookupError, RecursionError, TypeError, ValueError, ResponseParserError)

# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html, "Errors": what they are by HTTP's
# meaning, where they are answered with another status.
_STATUSES: Final = {
    "throttlingexception": 429,
    "modeltimeoutexception": 408,
    "modelnotreadyexception": 503,
    "serviceunavailableexception": 503,
    "internalserverexception": 500,
    "modelerrorexception": 424,
    "accessdeniedexception": 403,
    "unrecognizedclientexception": 403,
    "expiredtokenexception": 403,
    "resourcenotfoundexception": 404,
    "validationexception": 400,
}


class BedrockBackend:
    """Calls Converse; converse_request() says what it has no parameter for.

    Args:
        client: returns a bedrock-runtime client whose calls give up after so many seconds.
    """

    def __init__(self, client: Callable[[int], Any]) -> None:
        self._client = client

    def complete(self, claim: Claim, timeout: float) -> Completion:
        request = converse_request(claim)
        try:
            # By the model's own limit, so that there is a client per model and not per call. The worker stops waiting
            # after `timeout` by itself.
            answer = self._client(claim.timeout_seconds).converse(**request)
        except (ReadTimeoutError, ConnectTimeoutError):
            raise ModelError("model_timeout") from None
        except ClientError as error:
            raise _failure(error) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise ModelError("model_unauthorized") from None
        except ParamValidationError:
            raise ModelError("model_rejected") from None
        except BotoCoreError:
            raise ModelError("model_unavailable") from None
        except _UNREADABLE:
            raise ModelError("model_bad_response") from None
        report = _report(answer)
        try:
            content = answer["output"]["message"]["content"]
            read = sum((_block(block) for block in content), Answer())
        except _UNREADABLE:
            raise failed_call(ModelError("model_bad_response", is_answer=True), claim, report) from None
        return completion(claim, read, answer.get("stopReason"), report)


def _block(block: Any) -> Answer:
    """What is written in one block of the answer."""
    if not isinstance(block, dict):
        raise TypeError
    if "text" in block:
        return Answer(_text(block["text"]))
    if "citationsContent" in block:
        return Answer("".join(_text(part.get("text", "")) for part in block["citationsContent"].get("content") or ()))
    if "guardContent" in block:
        return Answer(_text((block["guardContent"].get("text") or {}).get("text", "")))
    if "reasoningContent" in block:
        thought = block["reasoningContent"]
        text = _text((thought.get("reasoningText") or {}).get("text", ""))
        size = byte_length(text) + len(thought.get("redactedContent") or b"")
        return Answer(hidden_bytes=size, is_reasoned=True, reasoning=text)
    if "toolUse" in block:
        return _call(block["toolUse"])
    # A kind that this version does not know, or without text, as an image.
    return Answer(hidden_bytes=len(block))


def _call(use: Any) -> Answer:
    name, arguments = _text(use.get("name", "")), use.get("input", {})
    # Without a name nobody could answer it.
    calls = (made_call(_text(use.get("toolUseId", "")), name, arguments_text(arguments)),) if name else ()
    return Answer(hidden_bytes=byte_length(str(arguments)), calls_tools=True, tool_calls=calls)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        # The SDK passes on whatever JSON is there.
        raise TypeError
    return value


def _report(answer: Any) -> TokenReport:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return TokenReport()
    report = TokenReport(
        prompt=count(usage.get("inputTokens")),
        completion=count(usage.get("outputTokens")),
        total=count(usage.get("totalTokens")),
    )
    # Converse counts these beside inputTokens.
    return with_cache(report, count(usage.get("cacheReadInputTokens")), count(usage.get("cacheWriteInputTokens")))


def _failure(error: ClientError) -> ModelError:
    details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    status, headers = metadata.get("HTTPStatusCode", 500), metadata.get("HTTPHeaders", {})
    name = str(details.get("Code", "")).lower()
    # The name counts more than the status: 424 is a model's error, 429 also a model that is still being loaded.
    status = _STATUSES.get(name, status)
    return reported_failure(status, headers, {"message": str(details.get("Message", ""))}, words=frozenset({name}))
