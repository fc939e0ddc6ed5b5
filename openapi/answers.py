"""What all answers have in common, and errors.

The functions answer with plain dicts, which cost less than models. The models of their answers are in this package, for
the document and for the tests, which hold every answer against them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sluice.domain.failures import FAILURES
from sluice.domain.states import Status
from sluice.domain.vocabulary import Period

Identity = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
CalendarDay = Annotated[str, Field(json_schema_extra={"format": "date"})]
FailureCode = Annotated[str, Field(json_schema_extra={"enum": list(FAILURES)})]
Amount = Annotated[str, Field(pattern=r"^\d+(\.\d+)?$", description="A decimal number as text: it is exact.")]
Nothing: Any = None
"""The default of a member that may be absent; if it is there, it has a value."""


class Answer(BaseModel):
    """Members without a default are always there. Others may be added: a client ignores those it does not know."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True, protected_namespaces=())


class Finding(Answer):
    """One thing that is wrong with a body or a query."""

    pointer: str
    """A JSON Pointer (RFC 6901) to where it is; empty: all of it."""
    detail: str


class Facts(Answer):
    """What errors say beyond their message; which of these depends on the code."""

    errors: Annotated[list[Finding], Field(max_length=20)] = Nothing
    period: Period = Nothing
    limit: Literal["requests", "tokens"] = Nothing
    maximum: int | Amount = Nothing
    """Of tokens or requests, or in money."""
    used: int | Amount = Nothing
    reserved: int | Amount = Nothing
    tokens_needed: int = Nothing
    currency: str = Nothing
    amount_needed: Amount = Nothing
    max_prompt_bytes: int = Nothing
    max_tokens_limit: int = Nothing
    max_file_bytes: int = Nothing
    bytes_needed: int = Nothing
    longest_seconds: int = Nothing
    byte_length: int = Nothing
    """Of a result."""
    request_status: Status = Nothing
    cause: str = Nothing
    """Why a webhook endpoint did not answer."""


class Problem(Facts):
    """An error as problem details (RFC 9457). Decide by `code`: it does not change."""

    type: Annotated[str, Field(pattern="^urn:sluice:problem:[a-z_]+$")]
    title: str
    status: int
    detail: str
    code: str
    """A word of the list ErrorCode."""
    retry_after: int = Nothing
    """Equals the header Retry-After."""


class OpenAIError(Facts):
    """An error in OpenAI's form, with our own code and facts beside it."""

    message: str
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "rate_limit_error",
        "insufficient_quota",
        "server_error",
    ]
    param: str | None
    """The parameter at fault: `messages[0].content`."""
    code: str
    """OpenAI's word for it, where it has one."""
    sluice_code: str
    """A word of the list ErrorCode: it does not change."""
    failure: str = Nothing
    """Why a request failed, as in `GET /status/{request_id}`, or how it ended."""
    response_id: str | None = Nothing
    """Of a request that goes on, or that failed."""


class ErrorEnvelope(Answer):
    """The body of every error under /v1."""

    error: OpenAIError
