"""What the worker asks of a model backend, and how it reports a failure."""

from typing import Protocol

from sluice.domain.failures import FAILURES
from sluice.domain.requests import Claim, Completion, UsageDoubt


class ModelError(Exception):
    """A call of a model that failed.

    The model's own message is not repeated: it may quote the prompt.

    Args:
        code: a key of FAILURES that has a message.
        retry_after: seconds that the model asked to wait.
        prompt_tokens, completion_tokens: what it reported in spite of the failure; None: nothing was reported.
        doubt: what was wrong with that report.
        is_answer: the model did answer, in a form that is not known here: it would again, and be paid for it.
        http_status: what its server answered with.
        what: a sentence about this occurrence, added to the code's message; it quotes neither prompt nor answer.
    """

    def __init__(
        self,
        code: str,
        *,
        retry_after: float | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        doubt: UsageDoubt | None = None,
        is_answer: bool = False,
        http_status: int | None = None,
        what: str | None = None,
    ) -> None:
        self.is_transient = FAILURES[code].is_transient
        self.message = FAILURES[code].message if what is None else f"{FAILURES[code].message} {what}"
        self.code = code
        self.retry_after = retry_after
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.doubt = doubt
        self.is_answer = is_answer
        self.http_status = http_status
        super().__init__(code)


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
