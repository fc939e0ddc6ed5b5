"""A response as its client sees it: the request, what it asked, and the answer's items."""

import json
from collections.abc import Sequence
from typing import Any

from sluice.api.openai.ids import answer_item_id, asked_item_id, response_id
from sluice.domain.documents import (
    ImagePart,
    Input,
    Message,
    NamedTool,
    OutputMessage,
    OutputReasoning,
    OutputToolCall,
    RefusalPart,
    TextPart,
)
from sluice.domain.requests import RequestDetail
from sluice.domain.states import Status

# What an answer that was cut short reports; the others are complete.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ERROR_CODES = {
    "context_length_exceeded": "invalid_prompt",
    "model_input_too_large": "invalid_prompt",
    "model_rejected": "invalid_prompt",
    "content_filtered": "invalid_prompt",
    "model_throttled": "rate_limit_exceeded",
}


def response_view(detail: RequestDetail) -> dict[str, Any]:
    """A request as a response object, whatever API it came by."""
    echo = dict((detail.surface or {}).get("echo", {}))
    asked, parameters = detail.input, detail.parameters
    status = response_status(detail)
    return {
        "id": response_id(detail.request_id),
        "object": "response",
        "created_at": int(detail.created_at.timestamp()),
        "completed_at": int(detail.completed_at.timestamp()) if status == "completed" and detail.completed_at else None,
        "status": status,
        "background": echo.get("background", False),
        "model": detail.model_id,
        "error": _error(detail),
        "incomplete_details": {"reason": _INCOMPLETE[str(detail.finish_reason)]} if status == "incomplete" else None,
        "instructions": asked.instructions,
        "previous_response_id": echo.get("previous_response_id"),
        "max_output_tokens": echo.get("max_output_tokens"),
        "max_tool_calls": None,
        "metadata": dict(detail.metadata or {}),
        "reasoning": {"effort": None, "summary": None} | echo["reasoning"] if "reasoning" in echo else None,
        "safety_identifier": echo.get("safety_identifier"),
        "prompt_cache_key": echo.get("prompt_cache_key"),
        "service_tier": "default",
        "store": echo.get("store", True),
        "temperature": parameters.get("temperature", 1.0),
        "top_p": parameters.get("top_p", 1.0),
        "presence_penalty": parameters.get("presence_penalty", 0),
        "frequency_penalty": parameters.get("frequency_penalty", 0),
        "top_logprobs": 0,
        "truncation": "disabled",
        "text": {"format": _format(asked)},
        "user": echo.get("user"),
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "tool_choice": _choice(asked),
        "tools": _tools(asked),
        "output": output_items(detail),
        "usage": _usage(detail),
    } | {name: echo[name] for name in ("background_options",) if name in echo}


def response_status(detail: RequestDetail) -> str:
    """The state in OpenAI's words."""
    match detail.status:
        case Status.PROCESSING:
            return "in_progress"
        case Status.COMPLETED:
            return "incomplete" if detail.finish_reason in _INCOMPLETE else "completed"
        case Status.EXPIRED:
            return "failed"
    return detail.status.value


def _error(detail: RequestDetail) -> dict[str, str] | None:
    if response_status(detail) != "failed":
        return None
    return {
        "code": _ERROR_CODES.get(str(detail.error_code), "server_error"),
        "message": detail.error_message or "The request was not started in time.",
    }


def _usage(detail: RequestDetail) -> dict[str, Any] | None:
    if detail.prompt_tokens is None or detail.completion_tokens is None:
        return None
    return {
        "input_tokens": detail.prompt_tokens,
        "input_tokens_details": {"cached_tokens": detail.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": detail.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": detail.reasoning_tokens or 0},
        "total_tokens": detail.prompt_tokens + detail.completion_tokens,
    }


def _format(asked: Input) -> dict[str, Any]:
    form = asked.response_format
    if form is None or form.type == "json_object":
        return {"type": "text" if form is None else "json_object"}
    return {
        "type": "json_schema",
        "name": form.name,
        "description": form.description,
        "schema": json.loads(form.schema_text or "{}"),
        "strict": form.strict is not False,
    }


def _choice(asked: Input) -> Any:
    choice = asked.tool_choice
    return {"type": "function", "name": choice.name} if isinstance(choice, NamedTool) else choice or "auto"


def _tools(asked: Input) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": json.loads(tool.parameters) if tool.parameters is not None else None,
            "strict": tool.strict is not False,
        }
        for tool in asked.tools or ()
    ]


def output_items(detail: RequestDetail) -> list[dict[str, Any]]:
    """The items of an answer: what the model thought comes first, and an empty message is left out."""
    output = detail.output
    if output is None:
        return []
    status = "incomplete" if detail.finish_reason in _INCOMPLETE else "completed"
    numbered = list(enumerate(output.items))
    items: list[dict[str, Any]] = [
        {
            "id": answer_item_id("rs", detail.request_id, number),
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": item.text}],
            "status": status,
        }
        for number, item in numbered
        if isinstance(item, OutputReasoning)
    ]
    for number, item in numbered:
        if isinstance(item, OutputMessage):
            content = [_answered_part(part) for part in item.content if part.text]
            if content or len(numbered) == 1:
                items.append(
                    {
                        "id": answer_item_id("msg", detail.request_id, number),
                        "type": "message",
                        "role": "assistant",
                        "status": status,
                        "content": content or [_answered_part(TextPart(text=""))],
                    }
                )
        elif isinstance(item, OutputToolCall):
            items.append(
                {
                    "id": answer_item_id("fc", detail.request_id, number),
                    "type": "function_call",
                    "call_id": item.id,
                    "name": item.name,
                    "arguments": item.arguments,
                    "status": status,
                }
            )
    return items


def _answered_part(part: TextPart | RefusalPart) -> dict[str, Any]:
    if isinstance(part, RefusalPart):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}


def asked_items(detail: RequestDetail) -> list[dict[str, Any]]:
    """What was asked, as items, oldest first."""
    items: list[dict[str, Any]] = []
    for message in detail.input.messages:
        items += _asked(message)
    prefixes = {"message": "msg", "function_call": "fc", "function_call_output": "fc"}
    return [
        {"id": asked_item_id(prefixes[item["type"]], detail.request_id, number), **item}
        for number, item in enumerate(items)
    ]


def _asked(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        output = {"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text}
        return [output | {"status": "completed"}]
    calls = [
        {
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        for call in message.tool_calls or ()
    ]
    if not message.content and calls:
        return calls
    content = _asked_content(message)
    return [{"type": "message", "role": message.role, "status": "completed", "content": content}, *calls]


def _asked_content(message: Message) -> Sequence[dict[str, Any]]:
    if message.role == "assistant":
        return [_answered_part(part) for part in message.content if isinstance(part, TextPart | RefusalPart)]
    return [
        {"type": "input_image", "image_url": part.url, "detail": part.detail or "auto", "file_id": None}
        if isinstance(part, ImagePart)
        else {"type": "input_text", "text": getattr(part, "text", "")}
        for part in message.content
    ]
