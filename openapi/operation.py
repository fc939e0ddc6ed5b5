"""What an operation of the API is: a route with what may be sent, what is answered, and which errors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from sluice.domain.vocabulary import Scope

ALWAYS: Final = ("internal_error",)
KEYED: Final = (
    "key_missing",
    "key_malformed",
    "key_unknown",
    "key_revoked",
    "key_expired",
    "user_inactive",
    "scope_missing",
    "database_unavailable",
)


@dataclass(frozen=True)
class Result:
    """An answer that is no error.

    Attributes:
        body: a model, or several of which it is one; None: the body is this document.
        events: the model of an event, where it may also be a stream.
        types: the MIME types that the body may have, where it is not described.
        is_empty: there is no body.
    """

    status: int
    description: str
    body: type[BaseModel] | tuple[type[BaseModel], ...] | None
    headers: tuple[str, ...] = ()
    events: type[BaseModel] | None = None
    types: tuple[str, ...] = ()
    is_empty: bool = False


@dataclass(frozen=True)
class Operation:
    """A route.

    Attributes:
        function: whose docstring is the summary.
        scope: that the key needs; None: no key is needed.
        headers: that the client may send.
        body_needed: False: there may be no body.
        is_form: the body is multipart/form-data, and not JSON.
    """

    method: str
    path: str
    name: str
    function: Callable[..., Any]
    tag: str
    scope: Scope | None
    results: tuple[Result, ...]
    errors: tuple[str, ...] = ()
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    body_needed: bool = True
    headers: tuple[str, ...] = ()
    summary: str | None = None
    description: str | None = field(default=None)
    is_form: bool = False

    @property
    def key(self) -> str:
        """As the template has it."""
        return f"{self.method} {self.path}"

    @property
    def is_openai(self) -> bool:
        """Whether it speaks OpenAI's dialect, in which errors have another form."""
        return self.path.startswith("/v1/")

    @property
    def codes(self) -> tuple[str, ...]:
        """Of all errors that it answers."""
        return (*(KEYED if self.scope else ()), *self.errors, *ALWAYS)
