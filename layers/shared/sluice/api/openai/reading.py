"""Reading a body in OpenAI's form: an error names the parameter at fault, and no parameter is dropped in silence."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from sluice.api.openai.errors import invalid, param_of, unsupported
from sluice.domain.errors import SluiceError

M = TypeVar("M", bound=BaseModel)

# By pydantic's kinds of errors: OpenAI's code.
_CODES: Final[Mapping[str, str]] = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "literal_error": "invalid_value",
    "union_tag_invalid": "invalid_value",
    "union_tag_not_found": "missing_required_parameter",
    "string_pattern_mismatch": "invalid_value",
    "too_short": "empty_array",
    "too_long": "array_above_max_length",
    "string_too_short": "empty_string",
    "string_too_long": "string_above_max_length",
    "greater_than": "number_below_min_value",
    "greater_than_equal": "number_below_min_value",
    "less_than": "number_above_max_value",
    "less_than_equal": "number_above_max_value",
}


def read_body(
    model: type[M],
    body: str,
    unsupported_parameters: Mapping[str, tuple[Any, ...]],
    prepare: Callable[[dict[str, Any]], None] | None = None,
) -> M:
    """Read a body.

    Args:
        unsupported_parameters: those that are known and not supported, with the values that ask for nothing.
        prepare: changes the object before it is read.

    Raises:
        SluiceError: body_not_json; invalid_input or parameter_unsupported, with the parameter at fault in `param`.
    """
    given = _object(body)
    # Clients write null for what they leave out.
    given = {name: value for name, value in given.items() if value is not None}
    if prepare is not None:
        prepare(given)
    for name, harmless in unsupported_parameters.items():
        if name in given and not any(_same(given[name], value) for value in harmless):
            allowed = f"only {' or '.join(json.dumps(value) for value in harmless)} may be given" if harmless else ""
            raise unsupported(name, allowed)
    known = {name: value for name, value in given.items() if name not in unsupported_parameters}
    return read_object(model, known)


def read_object(model: type[M], given: Mapping[str, Any]) -> M:
    """Read what is already decoded, by the rules for JSON.

    Raises:
        SluiceError: invalid_input, with the parameter at fault in `param`.
    """
    try:
        return model.model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise _error_of(error, given) from None


def _same(given: Any, value: Any) -> bool:
    # To Python, 1 == True == 1.0.
    return type(given) is type(value) and given == value


def _object(body: str) -> dict[str, Any]:
    try:
        given = json.loads(body, object_pairs_hook=_members)
        # Halves of surrogate pairs are no text, and NaN is no JSON: nothing could store or send them.
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise SluiceError(
            "body_not_json", "Some text in the body is not Unicode: it has half of a surrogate pair."
        ) from None
    except RecursionError:
        raise SluiceError("body_not_json", "The body is nested too deeply.") from None
    except _RepeatedError as error:
        raise invalid(f"The member {error.name[:100]!r} is given twice.", error.name[:100]) from None
    except ValueError as error:
        raise SluiceError("body_not_json", f"The body must be a JSON object: {_what(error)}.") from None
    if not isinstance(given, dict):
        raise SluiceError("body_not_json", "The body must be a JSON object.")
    return given


class _RepeatedError(Exception):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedError(next(name for name in names if names.count(name) > 1))
    return members


def _what(error: ValueError) -> str:
    # Not the message of other errors, which may quote the body.
    return (
        f"{error.msg} (line {error.lineno}, column {error.colno})"
        if isinstance(error, json.JSONDecodeError)
        else "it holds a number that is too large, or NaN"
    )


def _error_of(error: ValidationError, given: Any) -> SluiceError:
    found = error.errors(include_url=False, include_context=True, include_input=False)
    first = max(found, key=lambda each: _helpfulness(each["type"], _path(each["loc"], given, each["type"])))
    kind, path = first["type"], _path(first["loc"], given, first["type"])
    param = param_of(path)
    if kind == "json_invalid":
        return SluiceError("body_not_json", "The body is nested too deeply.")
    message = first["msg"].removeprefix("Value error, ")
    if param is None:
        # About the body as a whole: which of its members do not go together.
        return invalid(f"{message[0].upper()}{message[1:]}.", None)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        # What decides between several forms: a role, a type.
        decides = str(first["ctx"]["discriminator"]).strip("'")
        param = param_of((*path, "type" if decides.endswith("()") else decides))
        if kind == "union_tag_not_found":
            return invalid(f"Missing required parameter: {param!r}.", param, "missing_required_parameter")
        return invalid(f"Invalid value for {param!r}: must be one of {first['ctx']['expected_tags']}.", param)
    if kind == "extra_forbidden":
        return invalid(f"Unknown parameter: {param!r}.", param, "unknown_parameter")
    if kind == "missing":
        return invalid(f"Missing required parameter: {param!r}.", param, "missing_required_parameter")
    return invalid(f"Invalid value for {param!r}: {message}.", param, _CODES.get(kind, _type_code(kind)))


def _helpfulness(kind: str, path: tuple[Any, ...]) -> tuple[bool, int, int]:
    """How much an error says about what the client meant; the most counts.

    Of the forms that a value may have, it is the one whose type is right and that went furthest; and where it is the
    word that decides between forms which is wrong, the members of the other form are no errors.
    """
    weight = {"literal_error": 2, "missing": 0, "extra_forbidden": 0}.get(kind, 1)
    return not kind.endswith("_type"), len(path), weight


def _type_code(kind: str) -> str:
    return "invalid_type" if kind.endswith("_type") else "invalid_value"


def _path(location: tuple[Any, ...], given: Any, kind: str) -> tuple[Any, ...]:
    """Where in the body an error is: pydantic's location also names the forms that a value may have."""
    path: list[Any] = []
    here = given
    for index, part in enumerate(location):
        if (isinstance(here, Mapping) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        ):
            here = here[part]
        elif index < len(location) - 1 or kind not in ("missing", "extra_forbidden"):
            continue
        path.append(part)
    return tuple(path)
