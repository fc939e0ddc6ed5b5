"""What the worker asks of a model backend, and how a model's failure is told."""

from typing import Any, Final, Protocol

from sluice.models import Claim, Completion

MODEL_ERRORS: Final[dict[str, tuple[bool, str]]] = {
    # code: (worth trying again, what the client is told)
    "model_unavailable": (True, "The model could not be reached or was out of service."),
    "model_timeout": (True, "The model did not answer in time."),
    "model_throttled": (True, "The model refused because of too much traffic."),
    "model_unauthorized": (True, "The model refused this service's credentials."),
    "model_bad_response": (True, "The model's answer could not be understood."),
    "model_usage_missing": (False, "The model's answer did not say how many tokens it used."),
    "model_rejected": (False, "The model refused the request as invalid."),
    "context_length_exceeded": (False, "The prompt and max_tokens do not fit the model's context."),
    "result_too_large": (False, "The model's answer is larger than a result may be."),
    "model_backend_unknown": (False, "The model is described with a backend that does not exist here."),
    "worker_error": (True, "The worker failed while it handled the request."),
}
STATUS_ERRORS: Final[dict[int, str]] = {
    401: "model_unauthorized",
    403: "model_unauthorized",
    408: "model_timeout",
    409: "model_unavailable",
    425: "model_unavailable",
    429: "model_throttled",
    504: "model_timeout",
}
"""HTTP statuses that say more than that they are errors; of the others, 4xx are refusals and 5xx outages."""


class ModelError(Exception):
    """A call of a model that brought no result.

    What the model said is not repeated: it may quote the prompt.

    Args:
        code: a key of MODEL_ERRORS.
        retry_after: seconds that the model asked to be left alone.
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
        self.is_transient, self.message = MODEL_ERRORS[code]
        self.code = code
        self.retry_after = retry_after
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        super().__init__(code)


def completion(text: str, prompt_tokens: Any, completion_tokens: Any) -> Completion:
    """A model's answer, with its token counts as they were found in it.

    Raises:
        ModelError: model_usage_missing; no books can be kept with these counts.
    """
    if not _is_count(prompt_tokens) or not _is_count(completion_tokens):
        raise ModelError("model_usage_missing")
    return Completion(text, prompt_tokens, completion_tokens)


def _is_count(value: Any) -> bool:
    # Two of them fit PostgreSQL's integer; a bool is an int to Python.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**30


class Backend(Protocol):
    """A protocol that models speak."""

    def complete(self, claim: Claim, timeout: float) -> Completion:
        """Have the claim's model answer its prompt.

        Args:
            claim: the prompt, its parameters and the model's address.
            timeout: seconds after which to give up.

        Raises:
            ModelError: there is no result.
        """
        ...
