"""A request as it is shown to OpenAI's clients: that of the golden objects."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sluice.domain.documents import Input, Output
from sluice.domain.requests import RequestDetail
from sluice.domain.states import Status

REQUEST_ID = UUID("019ab697-e800-7000-8000-000000000001")
CREATED = datetime.fromtimestamp(1764000000, UTC)
DETAIL = RequestDetail(
    outcome="ok",
    request_id=REQUEST_ID,
    model_id="m",
    status=Status.QUEUED,
    output=None,
    error_code=None,
    error_message=None,
    prompt_tokens=None,
    completion_tokens=None,
    total_tokens=None,
    created_at=CREATED,
    started_at=None,
    completed_at=None,
    finish_reason=None,
    metadata=None,
    input=Input.of_prompt("hello"),
    parameters={"max_tokens": 256},
    surface={"api": "responses", "echo": {}},
)


def completed(output: Output, **changes: Any) -> RequestDetail:
    """The request, answered a second later with one token for one token."""
    return replace(
        DETAIL,
        status=Status.COMPLETED,
        output=output,
        finish_reason=output.finish_reason,
        prompt_tokens=1,
        completion_tokens=1,
        total_tokens=2,
        completed_at=datetime.fromtimestamp(1764000001, UTC),
        **changes,
    )
