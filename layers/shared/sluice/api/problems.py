"""Errors as problem details (RFC 9457)."""

from typing import Any, Final

from sluice.domain.errors import Kind, SluiceError

# RFC 9457 asks for a URI per problem type; a URN needs no host to resolve it.
TYPE_PREFIX: Final = "urn:sluice:problem:"

STATUSES: Final[dict[Kind, int]] = {
    Kind.MALFORMED: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.UNMET: 412,
    Kind.OUT_OF_RANGE: 416,
    Kind.INVALID: 422,
    Kind.EXHAUSTED: 429,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
}


def problem_details(error: SluiceError) -> dict[str, Any]:
    """An error as a problem details object."""
    members: dict[str, Any] = {
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "status": STATUSES[error.kind],
        "detail": error.detail,
        "code": error.code,
    }
    if error.retry_after is not None:
        members["retry_after"] = error.retry_after
    return members | error.extra
