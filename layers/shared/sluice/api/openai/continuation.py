"""Continuing a response: what it asked and was answered comes first in the next one."""

from collections.abc import Callable
from uuid import UUID

from sluice.api.openai.errors import invalid
from sluice.api.openai.ids import answer_item_of, request_of
from sluice.api.openai.responses import Referred
from sluice.domain.documents import Message, OutputItem, OutputMessage, ToolCall
from sluice.domain.errors import SluiceError
from sluice.domain.requests import RequestDetail
from sluice.domain.states import Status

Find = Callable[[UUID], RequestDetail]
"""Finds a request of the caller; raises SluiceError, request_not_found."""


def is_stored(detail: RequestDetail) -> bool:
    """Whether the client let us keep it for later calls."""
    return (detail.surface or {}).get("echo", {}).get("store") is not False


def conversation_until(given: str, find: Find) -> tuple[Message, ...]:
    """The messages up to and including the answer of an earlier response.

    Args:
        given: previous_response_id.

    Raises:
        SluiceError: invalid_input: there is no such response, or none with an answer.
    """
    detail = _found(request_of(given), find)
    if detail is None:
        raise invalid(
            f"Previous response with id {given[:64]!r} not found.",
            "previous_response_id",
            "previous_response_not_found",
        )
    if detail.status is not Status.COMPLETED or detail.output is None:
        raise invalid(
            f"Previous response with id {given[:64]!r} has no answer: its status is {detail.status}.",
            "previous_response_id",
            "previous_response_unanswered",
        )
    if detail.output.is_elsewhere:
        raise invalid(
            f"Previous response with id {given[:64]!r} has an answer that is too long to be continued.",
            "previous_response_id",
            "previous_response_unanswered",
        )
    said = [item for item in detail.output.items if isinstance(item, OutputMessage)]
    content = tuple(part for item in said for part in item.content if part.text)
    calls = tuple(ToolCall(id=each.id, name=each.name, arguments=each.arguments) for each in detail.output.tool_calls)
    if not content and not calls:
        return detail.input.messages
    answer = Message(role="assistant", content=content, tool_calls=calls or None)
    return (*detail.input.messages, answer)


def referred_items(find: Find) -> Referred:
    """Finds items of earlier answers by their ids; each response is read once."""
    seen: dict[UUID, RequestDetail | None] = {}

    def find_item(item_id: str) -> OutputItem | None:
        named = answer_item_of(item_id)
        if named is None:
            return None
        request_id, number = named
        if request_id not in seen:
            seen[request_id] = _found(request_id, find)
        detail = seen[request_id]
        items = () if detail is None or detail.output is None else detail.output.items
        return items[number] if number < len(items) else None

    return find_item


def _found(request_id: UUID | None, find: Find) -> RequestDetail | None:
    if request_id is None:
        return None
    try:
        detail = find(request_id)
    except SluiceError as error:
        if error.code == "request_not_found":
            return None
        raise
    return detail if is_stored(detail) else None
