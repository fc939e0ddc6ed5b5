"""Whether a schema can be used, said when its request is accepted."""

from typing import TYPE_CHECKING, Any, Final

from sluice.structured.references import ReferenceRefusedError, Shape, joined, shape
from sluice.structured.strict_json import StrictJsonError, parsed

if TYPE_CHECKING:
    import jsonschema_rs

MAX_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 64
MAX_CHECKS: Final = 10_000
"""How many parts of a schema may apply to one value: fewer than a schema of 64 KiB has that repeats nothing."""
MAX_UNEVALUATED: Final = 1_000
"""The same, added up over the parts with `unevaluated…`. Each such part compiles again what applies beside it."""
MAX_PATTERNS: Final = 128
MAX_PATTERN_CHARACTERS: Final = 8 * 1024
# Compiled patterns share so many bytes, and each gets so many at least and at most. `^.{1,255}$` takes half a megabyte.
_PATTERN_BYTES: Final = 8 * 1024 * 1024
_LEAST_PATTERN_BYTES: Final = 64 * 1024
_MOST_PATTERN_BYTES: Final = 1024 * 1024

_MAX_REASON: Final = 200
_MAX_POINTER: Final = 80
_DRAFTS: Final = {
    "https://json-schema.org/draft/2020-12/schema": "Draft202012Validator",
    "https://json-schema.org/draft/2019-09/schema": "Draft201909Validator",
    "http://json-schema.org/draft-07/schema": "Draft7Validator",
}
_DEFAULT_DRAFT: Final = "Draft202012Validator"
# By the keyword of the meta-schema that is not met; its only format that is checked is that of patterns.
_PROBLEMS: Final = {
    "format": "this regular expression is wrong, or too large, or looks around or back; write it simpler",
    "$ref": "a reference points nowhere in this version of JSON Schema",
}


class SchemaRefusedError(ValueError):
    """A schema cannot be used.

    Attributes:
        reason: one sentence, what is wrong and what to do; at most 200 characters. It may quote names of the schema.
    """

    def __init__(self, reason: str) -> None:
        self.reason = "".join(each if each.isprintable() else "?" for each in reason)[:_MAX_REASON]
        super().__init__(self.reason)


def check_schema(schema_text: str) -> None:
    """Check that a client's schema can be used to validate answers.

    It takes a few milliseconds, at most some two hundred, whatever the schema is, and fetches nothing.

    Raises:
        SchemaRefusedError: it cannot be used.
    """
    compiled(schema_text)


def compiled(schema_text: str) -> "jsonschema_rs.Validator":
    """Check a schema as check_schema() does, and compile it. The validator calls an answer "the value".

    Raises:
        SchemaRefusedError: it cannot be used.
    """
    # A surrogate's half counts as a character here, and is refused below.
    if len(schema_text.encode("utf-8", "replace")) > MAX_BYTES:
        raise SchemaRefusedError(f"The schema is too large: send at most {MAX_BYTES // 1024} KiB.")
    try:
        schema = parsed(schema_text, MAX_DEPTH)
    except StrictJsonError as error:
        raise SchemaRefusedError(f"The schema cannot be read. {error.reason}") from None
    if isinstance(schema, bool):
        return _compile(schema, _DEFAULT_DRAFT, 0)
    if not isinstance(schema, dict):
        raise SchemaRefusedError("The schema must be a JSON object or a boolean.")
    dialect = schema.get("$schema", next(iter(_DRAFTS)))
    draft = _DRAFTS.get(dialect.removesuffix("#")) if isinstance(dialect, str) else None
    if draft is None:
        raise SchemaRefusedError("$schema must name JSON Schema 2020-12, 2019-09 or draft 7, or be left out.")
    try:
        counted = shape(schema)
    except ReferenceRefusedError as error:
        raise SchemaRefusedError(_at(error.pointer, error.problem)) from None
    _check_counts(counted)
    # Every reference begins with #, so no address changes what it means.
    usable = {
        name: value for name, value in schema.items() if name not in ("$id", "$schema") or not isinstance(value, str)
    }
    return _compile(usable, draft, len(counted.patterns))


def _check_counts(counted: Shape) -> None:
    if counted.checks > MAX_CHECKS:
        raise SchemaRefusedError(
            f"One value would have to pass more than {MAX_CHECKS} checks: refer to the same definition less often."
        )
    if counted.unevaluated > MAX_UNEVALUATED:
        raise SchemaRefusedError("unevaluatedProperties or unevaluatedItems cover too much: use additionalProperties.")
    if len(counted.patterns) > MAX_PATTERNS or sum(map(len, counted.patterns)) > MAX_PATTERN_CHARACTERS:
        raise SchemaRefusedError(
            f"The schema has too many regular expressions: use at most {MAX_PATTERNS} different ones, with "
            f"{MAX_PATTERN_CHARACTERS} characters in all."
        )


def _compile(schema: dict[str, Any] | bool, draft: str, patterns: int) -> "jsonschema_rs.Validator":
    # Here, because it takes longer to load than the rest of a cold start's modules together, and few requests need it.
    import jsonschema_rs  # noqa: PLC0415

    share = _PATTERN_BYTES // max(1, patterns)
    most = min(_MOST_PATTERN_BYTES, max(_LEAST_PATTERN_BYTES, share))
    make: type[jsonschema_rs.Validator] = getattr(jsonschema_rs, draft)
    try:
        return make(
            schema,
            validate_formats=False,
            retriever=_fetch_nothing,
            mask="the value",
            # The engine without backtracking: time grows with the text's length, whatever the pattern.
            pattern_options=jsonschema_rs.RegexOptions(size_limit=most, dfa_size_limit=most),
        )
    except jsonschema_rs.ValidationError as error:
        problem = _PROBLEMS.get(error.kind.name, "this is not what JSON Schema allows here")
        raise SchemaRefusedError(_at(joined(error.instance_path), problem)) from None
    except (ValueError, TypeError, OverflowError, jsonschema_rs.ReferencingError):
        raise SchemaRefusedError("The schema is not one that JSON Schema allows.") from None


def _fetch_nothing(_: str) -> Any:
    raise ValueError("references stay in their document")


def _at(pointer: str, problem: str) -> str:
    shown = pointer if len(pointer) <= _MAX_POINTER else "…" + pointer[-_MAX_POINTER:]
    return f"At {shown}: {problem}." if shown else f"At the schema's top: {problem}."
