"""Reading input with pydantic: what is wrong becomes one error that says where and what, never the value."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from sluice.domain.errors import SluiceError

M = TypeVar("M", bound=BaseModel)

# More findings than a person fixes at once only make an answer long.
_MOST_FINDINGS: Final = 20


def parse_json(model: type[M], body: str | bytes) -> M:
    """Read a JSON text as a model.

    A member that is given twice is refused: which of the two counts would be a guess.

    Raises:
        SluiceError: body_not_json, invalid_input.
    """
    parsed = _parsed(model, body)
    repeated = list(_repeated_members(json.loads(body, object_pairs_hook=_Members)))
    if repeated:
        raise invalid_input([(place, "is given twice") for place in repeated])
    return parsed


def parse_object(model: type[M], data: Any) -> M:
    """Read a JSON value that is already decoded, by the rules for JSON.

    Raises:
        SluiceError: invalid_input.
    """
    try:
        text = json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise SluiceError("invalid_input", "Some text in it is not Unicode: it has half of a surrogate pair.") from None
    return _parsed(model, text)


def invalid_input(findings: Sequence[tuple[Sequence[int | str], str]]) -> SluiceError:
    """The error that says what is wrong, and where: each finding is a place and a sentence about it."""
    errors = [{"pointer": _pointer(tuple(place)), "detail": detail} for place, detail in findings]
    first = errors[0]
    where = f"{first['pointer']}: " if first["pointer"] else ""
    more = f" ({len(errors) - 1} more in errors)" if len(errors) > 1 else ""
    return SluiceError("invalid_input", f"{where}{first['detail']}{more}.", errors=errors[:_MOST_FINDINGS])


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, all of them, in their order."""


def _repeated_members(value: Any, place: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    """Where a JSON value has members of the same name in one object."""
    if isinstance(value, _Members):
        yield from ((*place, name) for name, times in Counter(name for name, _ in value).items() if times > 1)
        for name, inner in value:
            yield from _repeated_members(inner, (*place, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _repeated_members(inner, (*place, index))


def _parsed(model: type[M], body: str | bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _error_of(error) from None


def _pointer(location: tuple[int | str, ...]) -> str:
    """A JSON Pointer (RFC 6901) to where something was found; long names are cut."""
    # Pydantic marks a finding about a member's name with [key]; a pointer can only lead to the member.
    parts = location[:-1] if location[-1:] == ("[key]",) else location
    return "".join("/" + str(part)[:100].replace("~", "~0").replace("/", "~1") for part in parts)


def _error_of(error: ValidationError) -> SluiceError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    findings = [(each["loc"], each["msg"].removeprefix("Value error, ")) for each in found]
    if found[0]["type"] == "json_invalid":
        return SluiceError("body_not_json", f"The body must be a JSON object. {findings[0][1]}.")
    return invalid_input(findings)
