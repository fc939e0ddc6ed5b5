"""Reading input with pydantic: what is wrong becomes one error that says where and what, never the value."""

import json
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from sluice.domain.errors import SluiceError

M = TypeVar("M", bound=BaseModel)

# More findings than a person fixes at once only make an answer long.
_MOST_FINDINGS: Final = 20


def parse_json(model: type[M], body: str | bytes) -> M:
    """Read a JSON text as a model.

    Raises:
        SluiceError: body_not_json, invalid_input.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _error_of(error) from None


def parse_object(model: type[M], data: Any) -> M:
    """Read a JSON value that is already decoded, by the rules for JSON.

    Raises:
        SluiceError: invalid_input.
    """
    try:
        text = json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise SluiceError("invalid_input", "Some text in it is not Unicode: it has half of a surrogate pair.") from None
    return parse_json(model, text)


def _pointer(location: tuple[int | str, ...]) -> str:
    """A JSON Pointer (RFC 6901) to where something was found; long names are cut."""
    # Pydantic marks a finding about a member's name with [key]; a pointer can only lead to the member.
    parts = location[:-1] if location[-1:] == ("[key]",) else location
    return "".join("/" + str(part)[:100].replace("~", "~0").replace("/", "~1") for part in parts)


def _error_of(error: ValidationError) -> SluiceError:
    findings = [
        {
            "pointer": _pointer(found["loc"]),
            "detail": found["msg"].removeprefix("Value error, "),
        }
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    if error.errors(include_input=False)[0]["type"] == "json_invalid":
        return SluiceError("body_not_json", f"The body must be a JSON object. {findings[0]['detail']}.")
    first = findings[0]
    where = f"{first['pointer']}: " if first["pointer"] else ""
    more = f" ({len(findings) - 1} more in errors)" if len(findings) > 1 else ""
    return SluiceError("invalid_input", f"{where}{first['detail']}{more}.", errors=findings[:_MOST_FINDINGS])
