"""What the worker asks of a model backend, and how it reports a failure."""

from typing import Any, Final, Protocol

from sluice.domain.documents import FinishReason
from sluice.domain.failures import FAILURES
from sluice.domain.requests import Claim, Completion

STATUS_ERRORS: Final[dict[int, str]] = {
    401: "model_unauthorized",
    403: "model_unauthorized",
    408: "model_timeout",
    409: "model_unavailable",
    425: "model_unavailable",
    429: "model_throttled",
    504: "model_timeout",
}
"""HTTP statuses with a meaning of their own; of the others, 4xx are refusals and 5xx outages."""


class ModelError(Exception):
    """A call of a model that failed.

    The model's own message is not repeated: it may quote the prompt.

    Args:
        code: a key of FAILURES that has a message.
        retry_after: seconds that the model asked to wait.
        prompt_tokens, completion_tokens: what it reported in spite of the failure; None: nothing was reported.
    """

    def __init__(
        self,
        code: str,
        *,
        retry_after: float | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
    ) -> None:
        self.is_transient = FAILURES[code].is_transient
        self.message = FAILURES[code].message
        self.code = code
        self.retry_after = retry_after
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        super().__init__(code)


def completion(text: str, prompt_tokens: Any, completion_tokens: Any, finish_reason: FinishReason | None) -> Completion:
    """A model's answer, with its token counts as they were found in it.

    Raises:
        ModelError: model_usage_missing; a request cannot be accounted for with these counts.
    """
    if not _is_count(prompt_tokens) or not _is_count(completion_tokens):
        raise ModelError("model_usage_missing")
    return Completion.of_text(text, prompt_tokens, completion_tokens, finish_reason)


def _is_count(value: Any) -> bool:
    # Two of them fit PostgreSQL's integer; a bool is an int to Python.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**30


class Backend(Protocol):
    """A protocol that models speak."""

    def complete(self, claim: Claim, timeout: float) -> Completion:
        """Have the claim's model answer its input.

        Args:
            claim: the input, its parameters and the model's address.
            timeout: seconds after which to give up.

        Raises:
            ModelError: there is no result.
        """
        ...
