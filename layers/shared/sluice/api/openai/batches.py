"""Batches, as OpenAI's clients make, watch and cancel them."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from pydantic import Field

from sluice.api.exchange import answer, body_text, caller_key
from sluice.api.openai.errors import invalid
from sluice.api.openai.reading import read_body, read_object
from sluice.domain.batches import BatchEndpoint, batch_name, batch_of
from sluice.domain.fields import Metadata, Strict
from sluice.domain.uploads import file_name, file_of
from sluice.domain.windows import CompletionWindow
from sluice.telemetry import logger

if TYPE_CHECKING:
    from sluice.services.batches import BatchManager

_PAGE: Final = 20
# When each end is shown, by status.
_ENDS: Final = ("completed", "failed", "expired", "cancelled")


class OutputExpiry(Strict):
    """How long the files of a batch are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class BatchRequest(Strict):
    """The body of POST /v1/batches."""

    input_file_id: Annotated[str, Field(max_length=64)]
    endpoint: BatchEndpoint
    completion_window: CompletionWindow
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None


class BatchesQuery(Strict):
    """The query of GET /v1/batches."""

    after: str | None = None
    limit: int = Field(default=_PAGE, ge=1, le=100)


def add_batch_routes(router: APIGatewayHttpRouter, manager: Callable[[], "BatchManager"]) -> None:
    """Add the routes under /v1/batches. Of two that fit, the first counts."""

    @router.post("/v1/batches")
    def _create() -> Response[str]:
        return create_batch(manager(), router.current_event)

    @router.get("/v1/batches")
    def _list() -> Response[str]:
        return list_batches(manager(), router.current_event)

    @router.post("/v1/batches/<batch_id>/cancel")
    def _cancel(batch_id: str) -> Response[str]:
        key_hash = caller_key(router.current_event)
        return answer(200, batch_view(manager().cancel(key_hash, batch_of(batch_id))))

    @router.get("/v1/batches/<batch_id>")
    def _show(batch_id: str) -> Response[str]:
        key_hash = caller_key(router.current_event)
        return answer(200, batch_view(manager().show(key_hash, batch_of(batch_id))))


def create_batch(manager: "BatchManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """Make a batch of an uploaded file."""
    key_hash, body = caller_key(event), read_body(BatchRequest, body_text(event), {})
    made = manager.create(
        key_hash,
        input_file_id=file_of(body.input_file_id),
        endpoint=body.endpoint,
        completion_window=body.completion_window,
        metadata=body.metadata,
        output_expires_seconds=body.output_expires_after.seconds if body.output_expires_after else None,
    )
    logger.info("batch created", extra={"batch_id": made["batch_id"], "user_id": made["user_id"]})
    return answer(200, batch_view(made))


def list_batches(manager: "BatchManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """A page of batches, newest first."""
    key_hash = caller_key(event)
    given: dict[str, Any] = dict(event.query_string_parameters)
    text = given.get("limit", "")
    if text.isascii() and text.isdigit() and len(text) < 10:
        given["limit"] = int(text)
    query = read_object(BatchesQuery, given)
    after = None if query.after is None else batch_of(query.after)
    if query.after is not None and after is None:
        raise invalid(f"There is no batch {query.after[:64]!r}.", "after")
    found = [batch_view(each) for each in manager.page(key_hash, query.limit, after)]
    page = found[: query.limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return answer(200, {"object": "list", "data": page, **ends, "has_more": len(found) > query.limit})


def batch_view(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch."""
    status, ended_at = batch["status"], _seconds(batch["ended_at"])
    faults = batch["faults"]
    return {
        "id": batch_name(UUID(batch["batch_id"])),
        "object": "batch",
        "endpoint": batch["endpoint"],
        "errors": None if faults is None else {"object": "list", "data": faults},
        "input_file_id": file_name(UUID(batch["input_file_id"])),
        "completion_window": batch["completion_window"],
        "status": status,
        "output_file_id": _file(batch["output_file_id"]),
        "error_file_id": _file(batch["error_file_id"]),
        "created_at": _seconds(batch["created_at"]),
        "in_progress_at": _seconds(batch["in_progress_at"]),
        "expires_at": _seconds(batch["expires_at"]),
        "finalizing_at": _seconds(batch["finalizing_at"]),
        **{f"{end}_at": ended_at if status == end else None for end in _ENDS},
        "cancelling_at": _seconds(batch["cancelling_at"]),
        "request_counts": {"total": batch["total"], "completed": batch["completed"], "failed": batch["failed"]},
        "metadata": batch["metadata"],
        "usage": _usage(batch["usage"]),
        "waits_for": batch["waits_for"],
    }


def _usage(usage: Mapping[str, int] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": usage["cached_tokens"]},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["reasoning_tokens"]},
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
    }


def _file(file_id: str | None) -> str | None:
    return None if file_id is None else file_name(UUID(file_id))


def _seconds(time: str | None) -> int | None:
    return None if time is None else int(datetime.fromisoformat(time).timestamp())
