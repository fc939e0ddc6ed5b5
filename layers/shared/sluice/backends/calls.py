"""The calls of tools in an answer, in every form in which OpenAI-compatible servers give them."""

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from sluice.domain.documents import ToolCall


@dataclass
class _Draft:
    """A call, as far as its pieces have been read."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


def read_calls(value: Any) -> tuple[ToolCall, ...]:
    """The calls, with their arguments as the model wrote them.

    What has no name, or no known form, is left out: nobody could answer it.

    Args:
        value: a call or a list of them. If there are lists in the list, they are the pieces of a stream, in which the
            parts of a call have the same index.
    """
    calls = value if isinstance(value, list) else [value]
    if any(isinstance(each, list) for each in calls):
        drafts = _joined([piece for each in calls for piece in (each if isinstance(each, list) else [each])])
    else:
        drafts = [draft for each in calls for draft in _joined([each])]
    return tuple(_call(draft) for draft in drafts if draft.name)


def made_call(call_id: str, name: str, arguments: str) -> ToolCall:
    """A call, with an id if the server gave it none."""
    # Not validated: the texts may have characters that no document can hold. Output.of_text() replaces them.
    return ToolCall.model_construct(id=call_id or f"call_{secrets.token_hex(12)}", name=name, arguments=arguments)


def arguments_text(value: Any) -> str:
    """Arguments as text, also where a server gives the object itself."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _joined(pieces: list[Any]) -> list[_Draft]:
    drafts: list[_Draft] = []
    open_drafts: dict[int | None, _Draft] = {}
    for piece in pieces:
        if not isinstance(piece, dict):
            continue
        function = piece.get("function")
        described = function if isinstance(function, dict) else piece
        # OpenAI's newer API has an id of the item, too.
        call_id, name = _text(piece.get("call_id")) or _text(piece.get("id")), _text(described.get("name"))
        index = piece.get("index") if isinstance(piece.get("index"), int) else None
        draft = open_drafts.get(index)
        if draft is None or _begins_another(draft, call_id, name, has_index=index is not None):
            draft = open_drafts[index] = _Draft()
            drafts.append(draft)
        draft.id, draft.name = draft.id or call_id, draft.name or name
        # The names of OpenAI, Anthropic, Cohere.
        given = (described.get(member) for member in ("arguments", "input", "parameters"))
        if (arguments := next((each for each in given if each is not None), None)) is not None:
            draft.arguments.append(arguments_text(arguments))
    return drafts


def _begins_another(draft: _Draft, call_id: str, name: str, *, has_index: bool) -> bool:
    # Some servers give all calls the same index, or none.
    if call_id and draft.id:
        return call_id != draft.id
    return not has_index and bool(name and draft.name)


def _call(draft: _Draft) -> ToolCall:
    return made_call(draft.id, draft.name, "".join(draft.arguments) if draft.arguments else "{}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
