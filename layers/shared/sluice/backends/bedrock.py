"""Amazon Bedrock's Converse API, the same for all of its chat models."""

from collections.abc import Callable
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from sluice.backends.protocol import STATUS_ERRORS, ModelError, completion
from sluice.domain.documents import FinishReason, Input
from sluice.domain.requests import Claim, Completion

# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html, "Errors"
_ERRORS: Final = {
    "ThrottlingException": "model_throttled",
    "ServiceQuotaExceededException": "model_throttled",
    "ModelTimeoutException": "model_timeout",
    "ModelNotReadyException": "model_unavailable",
    "ServiceUnavailableException": "model_unavailable",
    "InternalServerException": "model_unavailable",
    "ModelErrorException": "model_unavailable",
    "AccessDeniedException": "model_unauthorized",
    "UnrecognizedClientException": "model_unauthorized",
    "ExpiredTokenException": "model_unauthorized",
    "ResourceNotFoundException": "model_rejected",
    "ValidationException": "model_rejected",
}
# What the SDK and this module raise for an answer that is not Converse's JSON.
_UNREADABLE: Final = (AttributeError, LookupError, RecursionError, TypeError, ValueError, ResponseParserError)
_PARAMETERS: Final = {
    "max_tokens": "maxTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop": "stopSequences",
}

# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html, "stopReason"
_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "tool_use": "tool_calls",
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
            text = "".join(block["text"] for block in answer["output"]["message"]["content"] if "text" in block)
        except (ReadTimeoutError, ConnectTimeoutError):
            raise ModelError("model_timeout") from None
        except ClientError as error:
            raise _failure(error) from None
        except BotoCoreError:
            raise ModelError("model_unavailable") from None
        except _UNREADABLE:
            raise ModelError("model_bad_response") from None
        usage, reason = answer.get("usage", {}), answer.get("stopReason")
        # The SDK passes on whatever JSON is there.
        finish_reason = _FINISH_REASONS.get(reason) if isinstance(reason, str) else None
        return completion(text, usage.get("inputTokens"), usage.get("outputTokens"), finish_reason)


def _conversation(conversation: Input) -> dict[str, Any]:
    """The messages as Converse takes them: those of the system apart."""
    system = [{"text": m.text} for m in conversation.messages if m.role == "system"]
    messages = [
        {"role": m.role, "content": [{"text": part.text} for part in m.content]}
        for m in conversation.messages
        if m.role != "system"
    ]
    return {"messages": messages} | ({"system": system} if system else {})


def _failure(error: ClientError) -> ModelError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    if known := _ERRORS.get(code) or STATUS_ERRORS.get(status):
        return ModelError(known)
    return ModelError("model_rejected" if 400 <= status < 500 else "model_unavailable")
