"""A model's answer, whichever protocol it came by: what it wrote, why it stopped, why there is no text, its tokens."""

from dataclasses import dataclass
from typing import IO, Any, Final

from sluice.backends.protocol import ModelError
from sluice.backends.tokens import TokenReport, counted
from sluice.domain.documents import EmptyReason, FinishReason, Output, ToolCall
from sluice.domain.requests import Claim, Completion

# The words of OpenAI, vLLM, SGLang, TGI, Mistral, Cohere, Anthropic, Gemini, Bedrock and others, in lower case.
_WORDS: Final[dict[FinishReason, str]] = {
    "stop": "stop stop_sequence stopped stop_token eos eos_token end end_turn complete completed done finished success",
    "length": "length max_tokens max_length max_token_length max_output_tokens model_length token_limit limit"
    " error_limit model_context_window_exceeded context_window_exceeded",
    "content_filter": "content_filter content_filtered guardrail_intervened guardrail safety recitation blocklist"
    " prohibited_content spii image_safety sensitive flagged error_toxic",
    "tool_calls": "tool_calls tool_call tool_use function_call",
    "refusal": "refusal refused",
}
_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    word: ours for ours, words in _WORDS.items() for word in words.split()
}
# The provider broke off: what is there is no answer.
_BROKEN_OFF: Final = frozenset(
    {"error", "abort", "aborted", "cancelled", "canceled", "network_error", "server_error", "timeout"}
    | {"insufficient_system_resource"}
)


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        refusal: what it said instead of an answer.
        hidden_bytes: length of what it wrote beside text and refusal: reasoning, calls of tools, and what is not kept.
        is_reasoned, calls_tools: it reasoned; it asked for tools. Both also where nothing of that could be read.
        reasoning: what it thought before it answered, as far as that is text.
        tool_calls: the calls that could be read.
    """

    text: str = ""
    refusal: str = ""
    hidden_bytes: int = 0
    is_reasoned: bool = False
    calls_tools: bool = False
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __add__(self, other: "Answer") -> "Answer":
        return Answer(
            self.text + other.text,
            self.refusal + other.refusal,
            self.hidden_bytes + other.hidden_bytes,
            self.is_reasoned or other.is_reasoned,
            self.calls_tools or other.calls_tools,
            self.reasoning + other.reasoning,
            self.tool_calls + other.tool_calls,
        )

    @property
    def byte_length(self) -> int:
        """Length of everything that it wrote."""
        return byte_length(self.text) + byte_length(self.refusal) + self.hidden_bytes


def byte_length(text: str) -> int:
    """Bytes of UTF-8; of a text that may have halves of surrogate pairs, too."""
    return len(text.encode("utf-8", "surrogatepass"))


def completion(claim: Claim, answer: Answer, finish_word: Any, report: TokenReport) -> Completion:
    """A model's answer as it is kept and booked.

    Args:
        finish_word: why it stopped, in the server's word.

    Raises:
        ModelError: model_unavailable, the provider broke off; model_usage_missing, a request cannot be accounted for
            without token counts.
    """
    word = finish_word.strip().lower().replace("-", "_").replace(" ", "_") if isinstance(finish_word, str) else ""
    if word in _BROKEN_OFF:
        raise failed_call(ModelError("model_unavailable"), claim, report)
    finish_reason = _FINISH_REASONS.get(word, "other") if finish_word else None
    if answer.refusal and finish_reason in ("stop", "other", None):
        finish_reason = "refusal"
    elif answer.calls_tools and not answer.text and finish_reason in ("stop", "other", None):
        finish_reason = "tool_calls"
    output = Output.of_text(
        answer.text,
        finish_reason,
        refusal=answer.refusal,
        empty_reason=_empty_reason(answer, finish_reason),
        reasoning=answer.reasoning,
        tool_calls=answer.tool_calls,
    )
    return booked(claim, output, answer.byte_length, report)


def booked(
    claim: Claim, output: Output, written_bytes: int, report: TokenReport, content: bytes | IO[bytes] | None = None
) -> Completion:
    """An answer with the tokens that are booked for it.

    Args:
        written_bytes: length of all that the model wrote.
        content: the bytes of an answer that is a file.

    Raises:
        ModelError: model_usage_missing, a request cannot be accounted for without token counts.
    """
    counts = counted(report, claim, written_bytes)
    if counts is None:
        raise ModelError("model_usage_missing")
    return Completion(
        output, counts.prompt, counts.completion, counts.doubt, counts.cached, counts.reasoning, content=content
    )


def _empty_reason(answer: Answer, finish_reason: FinishReason | None) -> EmptyReason:
    if finish_reason in ("tool_calls", "content_filter", "refusal"):
        return finish_reason
    if answer.calls_tools:
        return "tool_calls"
    return "reasoning" if answer.is_reasoned else "nothing"


def failed_call(error: ModelError, claim: Claim, report: TokenReport) -> ModelError:
    """The error with the tokens that were reported in spite of it: the provider charges for them."""
    counts = counted(report, claim, None)
    if counts is None or not counts.prompt + counts.completion:
        return error
    return ModelError(
        error.code,
        retry_after=error.retry_after,
        prompt_tokens=counts.prompt,
        completion_tokens=counts.completion,
        doubt=counts.doubt,
        is_answer=error.is_answer,
        http_status=error.http_status,
    )
