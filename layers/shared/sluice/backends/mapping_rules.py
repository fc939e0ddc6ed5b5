"""What a model's mapping must be, checked when it is set: an error in it would otherwise cost every request a call."""

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

from sluice.backends.mapping import CHAT_PLACEHOLDERS, EMBEDDING_PLACEHOLDERS, PLACEHOLDER, TARGETS, placeholders

MOST_BYTES: Final = 16_384
"""Longest mapping, as JSON: every claim of a request has it."""
LONGEST_EXPRESSION: Final = 500
"""Of JMESPath, in characters."""
_DEEPEST: Final = 20
# As the API has them: names of its own resources, and the path of a model below the endpoint's prefix.
_NAME: Final = re.compile(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,62}")
_PATH: Final = re.compile(r"[!-~][ -~]{0,1023}")
_NAME_LENGTH: Final = 63
_CHAT: Final = {"text": True, "prompt_tokens": True, "completion_tokens": True, "finish_reason": False}
_EMBEDDING: Final = {"vectors": True, "prompt_tokens": True}
"""What a response may have, and whether it must."""


def check_mapping(mapping: Any) -> Any:
    """The mapping, if it can be used.

    Raises:
        ValueError: it cannot, in one sentence that says where and why.
    """
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError("must be an object with request and response, a target, or both")
    if len(json.dumps(mapping, ensure_ascii=False).encode()) > MOST_BYTES:
        raise ValueError(f"must not be larger than {MOST_BYTES} bytes")
    _known(mapping, ("request", "response", *TARGETS), "")
    for name in TARGETS:
        if name in mapping:
            _check_target(name, mapping[name])
    if "request" in mapping or "response" in mapping:
        if not isinstance(mapping.get("request"), dict) or not isinstance(mapping.get("response"), dict):
            raise ValueError("needs both request and response, two objects, or neither")
        _check_template(mapping["request"], "request", 1)
        _check_response(mapping["response"])
        _check_placeholders(mapping["request"], is_embedding="vectors" in mapping["response"])
    return mapping


def _known(given: Mapping[str, Any], names: Collection[str], where: str) -> None:
    for name in given:
        if name not in names:
            raise ValueError(f"has the unknown member {where}{_short(name)}; there are {', '.join(names)}")


def _short(text: str) -> str:
    """A name as it is shown in a sentence of one line."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= 50 else f"{shown[:50]}…"


def _check_target(name: str, value: Any) -> None:
    form = _PATH if name == "target_model" else _NAME
    longest = 1024 if name == "target_model" else _NAME_LENGTH
    if not isinstance(value, str) or len(value) > longest or not form.fullmatch(value):
        raise ValueError(f"{name} must be a name as SageMaker has it, of at most {longest} characters")


def _check_template(node: Any, where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"request must not be nested deeper than {_DEEPEST} levels")
    if isinstance(node, dict):
        for name, member in node.items():
            _check_text(name, f"the name {_short(name)} in {where}")
            if "{{" in name or "}}" in name:
                raise ValueError(f"the name {_short(name)} in {where} must not have {{{{ or }}}}")
            _check_template(member, f"{where}.{_short(name)}", depth + 1)
    elif isinstance(node, list):
        for index, member in enumerate(node):
            _check_template(member, f"{where}[{index}]", depth + 1)
    elif isinstance(node, str):
        _check_text(node, where)
        if ("{{" in node or "}}" in node) and not PLACEHOLDER.fullmatch(node):
            raise ValueError(
                f"{where} must be one placeholder alone, like {{{{prompt}}}}, or a text without {{{{ and }}}}"
            )
    elif isinstance(node, float) and not math.isfinite(node):
        raise ValueError(f"{where} must be a finite number")


def _check_text(text: str, where: str) -> None:
    if "\x00" in text:
        raise ValueError(f"{where} must not contain the character U+0000")


def _check_placeholders(template: Any, *, is_embedding: bool) -> None:
    allowed = EMBEDDING_PLACEHOLDERS if is_embedding else CHAT_PLACEHOLDERS
    used = set(placeholders(template))
    for name in sorted(used):
        if name not in allowed:
            kind = "of embeddings" if is_embedding else "of chats"
            raise ValueError(
                f"request has the unknown placeholder {_short(name)}; for models {kind} there are {', '.join(allowed)}"
            )
    if is_embedding and "texts" not in used:
        raise ValueError("request needs the placeholder {{texts}}")
    if not is_embedding and not used & {"prompt", "messages"}:
        raise ValueError("request needs the placeholder {{prompt}} or {{messages}}")


def _check_response(response: dict[str, Any]) -> None:
    if ("text" in response) == ("vectors" in response):
        raise ValueError("response needs an expression for text, or for vectors where the model makes embeddings")
    names = _EMBEDDING if "vectors" in response else _CHAT
    _known(response, names, "response.")
    for name, is_needed in names.items():
        if name in response:
            _check_expression(f"response.{name}", response[name])
        elif is_needed:
            raise ValueError(
                f"response needs an expression for {name}: a request cannot be accounted for without token counts"
                " (`0` has them estimated)"
            )


def _check_expression(where: str, expression: Any) -> None:
    if not isinstance(expression, str) or not expression.strip() or len(expression) > LONGEST_EXPRESSION:
        raise ValueError(f"{where} must be a JMESPath expression of at most {LONGEST_EXPRESSION} characters")
    _check_text(expression, where)
    try:
        parsed = jmespath.compile(expression).parsed
    except JMESPathError as error:
        # Its message draws a picture of several lines.
        position = getattr(error, "lex_position", None) or getattr(error, "lexer_position", None)
        at = f", at character {position + 1}" if isinstance(position, int) else ""
        raise ValueError(f"{where} is no JMESPath expression{at}") from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply") from None
    _check_functions(where, parsed)


def _check_functions(where: str, node: Any) -> None:
    """That functions exist and get as many arguments as they take, which JMESPath finds only when it evaluates them."""
    if node["type"] == "function_expression":
        known = Functions.FUNCTION_TABLE.get(node["value"])
        if known is None:
            raise ValueError(f"{where} calls {_short(node['value'])}, which is no function of JMESPath")
        signature, given = known["signature"], len(node["children"])
        is_variadic = bool(signature) and bool(signature[-1].get("variadic"))
        if given < len(signature) or (given > len(signature) and not is_variadic):
            raise ValueError(f"{where} calls {node['value']} with {given} arguments instead of {len(signature)}")
    for child in node["children"]:
        _check_functions(where, child)
