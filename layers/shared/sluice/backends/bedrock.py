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
from sluice.backends.protocol import ModelError
from sluice.backends.tokens import TokenReport, count, with_cache
from sluice.backends.upstream import reported_failure
from sluice.domain.documents import Input, RefusalPart, TextPart
from sluice.domain.requests import Claim, Completion

# What the SDK and this module raise for an answer that is not Converse's JSON.
_UNREADABLE: Final = (AttributeError, LookupError, RecursionError, TypeError, ValueError, ResponseParserError)
_PARAMETERS: Final = {
    "max_tokens": "maxTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop": "stopSequences",
}

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
    """Calls Converse. A seed is not passed on: Converse has no such parameter.

    Args:
        client: returns a bedrock-runtime client whose calls give up after so many seconds.
    """

    def __init__(self, client: Callable[[int], Any]) -> None:
        self._client = client

    def complete(self, claim: Claim, timeout: float) -> Completion:
        inference = {theirs: claim.parameters[ours] for ours, theirs in _PARAMETERS.items() if ours in claim.parameters}
        try:
            # By the model's own limit, so that there is a client per model and not per call. The worker stops waiting
            # after `timeout` by itself.
            answer = self._client(claim.timeout_seconds).converse(
                modelId=claim.backend_model, inferenceConfig=inference, **_conversation(claim.input)
            )
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
        size = byte_length(_text((thought.get("reasoningText") or {}).get("text", "")))
        return Answer(hidden_bytes=size + len(thought.get("redactedContent") or b""), is_reasoned=True)
    if "toolUse" in block:
        return Answer(hidden_bytes=byte_length(str(block["toolUse"].get("input", ""))), calls_tools=True)
    # A kind that this version does not know, or without text, as an image.
    return Answer(hidden_bytes=len(block))


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


def _conversation(conversation: Input) -> dict[str, Any]:
    """The messages as Converse takes them: those of the system apart."""
    system = [{"text": m.text} for m in conversation.messages if m.role == "system"]
    messages = [
        {
            "role": m.role,
            "content": [{"text": part.text} for part in m.content if isinstance(part, TextPart | RefusalPart)],
        }
        for m in conversation.messages
        if m.role != "system"
    ]
    return {"messages": messages} | ({"system": system} if system else {})


def _failure(error: ClientError) -> ModelError:
    details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    status, headers = metadata.get("HTTPStatusCode", 500), metadata.get("HTTPHeaders", {})
    name = str(details.get("Code", "")).lower()
    # The name counts more than the status: 424 is a model's error, 429 also a model that is still being loaded.
    status = _STATUSES.get(name, status)
    return reported_failure(status, headers, {"message": str(details.get("Message", ""))}, words=frozenset({name}))
