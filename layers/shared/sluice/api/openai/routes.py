"""The routes of OpenAI's API: each reads a body, has a service do the work, and shows the result."""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import unquote
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from pydantic import BaseModel, Field

from sluice.api.app import new_router
from sluice.api.cachestatus import cache_headers
from sluice.api.exchange import HEADERS, POLL_AFTER_SECONDS, answer, body_text, caller_key, idempotency_key
from sluice.api.native.quotes import quote_view
from sluice.api.native.results import redirect
from sluice.api.openai import chat, embeddings, files, responses
from sluice.api.openai.batches import add_batch_routes
from sluice.api.openai.chat import ChatRequest, chat_view
from sluice.api.openai.continuation import conversation_until, is_stored, referred_items
from sluice.api.openai.embeddings import EmbeddingRequest, embeddings_view
from sluice.api.openai.errors import invalid
from sluice.api.openai.file_images import put_images
from sluice.api.openai.files import ImageRequest, SpeechRequest, image_view
from sluice.api.openai.ids import request_of
from sluice.api.openai.reading import read_body, read_object
from sluice.api.openai.response_view import asked_items, response_view
from sluice.api.openai.responses import ResponseRequest
from sluice.api.openai.stream import chat_stream, response_stream
from sluice.api.openai.uploads import add_file_routes
from sluice.api.openai.webhooks import add_webhook_routes
from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.documents import Input
from sluice.domain.errors import SluiceError
from sluice.domain.fields import Flag, Strict
from sluice.domain.files import FILE_TYPES, safe_type
from sluice.domain.requests import ModelOffer, Repeat, RequestDetail, StoredResult, Submission
from sluice.domain.sizes import fits_an_answer
from sluice.domain.states import Status
from sluice.services.cancel import Canceller
from sluice.services.erase import Eraser
from sluice.services.foreground import Answered, Foreground, detail_of
from sluice.services.quote import Quoter
from sluice.services.read import Reader
from sluice.services.submit import Accepted, Submitter
from sluice.services.wait import wait_until_ended
from sluice.telemetry import MetricUnit, logger, metrics

if TYPE_CHECKING:
    from sluice.services.batches import BatchManager
    from sluice.services.files import FileManager
    from sluice.services.webhooks import WebhookManager

M = TypeVar("M", bound=BaseModel)

# An equal call is taken for a repeat without saying so when the first one's client must have been sent away: a second
# less than that, since the first call began before its request.
_REPEAT_MARGIN_SECONDS: Final = 1.0
_PAGE: Final = 20


def _absent() -> Any:
    raise SluiceError("route_not_found", "This deployment does not have that.")


@dataclass(frozen=True)
class Services:
    """What the routes need; the providers are asked for their services when a request arrives."""

    foreground: Callable[[], Foreground]
    submitter: Callable[[], Submitter]
    reader: Callable[[], Reader]
    canceller: Callable[[], Canceller]
    eraser: Callable[[], Eraser]
    quoter: Callable[[], Quoter]
    webhooks: Callable[[], "WebhookManager"]
    batches: Callable[[], "BatchManager"] = _absent
    files: Callable[[], "FileManager"] = _absent


class RetrieveQuery(Strict):
    """The query of GET /v1/responses/{id}."""

    stream: Flag = False
    starting_after: int = Field(default=-1, ge=0)
    include_obfuscation: Flag = False


class PageQuery(Strict):
    """The query of GET /v1/responses/{id}/input_items."""

    after: str | None = None
    limit: int = Field(default=_PAGE, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


def openai_routes(services: Services) -> APIGatewayHttpRouter:
    """The routes under /v1. Of two that fit, the first counts: an id is taken to the end of the path."""
    router = new_router()

    @router.post("/v1/responses")
    def _respond() -> Response[str]:
        return create_response(services, router.current_event)

    @router.post("/v1/responses/input_tokens")
    def _count() -> Response[str]:
        return count_input(services, router.current_event)

    @router.post("/v1/responses/<response_id>/cancel")
    def _cancel(response_id: str) -> Response[str]:
        key_hash = caller_key(router.current_event)
        return cancel_response(services, key_hash, response_id)

    @router.get("/v1/responses/<response_id>/input_items")
    def _items(response_id: str) -> Response[str]:
        key_hash, query = caller_key(router.current_event), _query(router.current_event, PageQuery)
        return list_input_items(services, key_hash, response_id, query)

    @router.get("/v1/responses/<response_id>")
    def _retrieve(response_id: str) -> Response[str]:
        key_hash, query = caller_key(router.current_event), _query(router.current_event, RetrieveQuery)
        return retrieve_response(services, key_hash, response_id, query)

    @router.delete("/v1/responses/<response_id>")
    def _delete(response_id: str) -> Response[str]:
        return delete_response(services, caller_key(router.current_event), response_id)

    @router.post("/v1/chat/completions")
    def _chat() -> Response[str]:
        return create_chat(services, router.current_event)

    @router.post("/v1/embeddings")
    def _embed() -> Response[str]:
        return create_embeddings(services, router.current_event)

    @router.post("/v1/images/generations")
    def _draw() -> Response[str]:
        return create_image(services, router.current_event)

    @router.post("/v1/audio/speech")
    def _speak() -> Response[Any]:
        return create_speech(services, router.current_event)

    @router.get("/v1/models")
    def _models() -> Response[str]:
        offers = services.reader().models(caller_key(router.current_event))
        return answer(200, {"object": "list", "data": model_views(offers)})

    @router.get("/v1/models/<model_id>")
    def _model(model_id: str) -> Response[str]:
        offers, wanted = services.reader().models(caller_key(router.current_event)), unquote(model_id)
        for view in model_views(offers):
            if view["id"] == wanted:
                return answer(200, view)
        raise SluiceError("model_unknown", f"The model {wanted[:64]!r} does not exist.")

    add_webhook_routes(router, services.webhooks)
    add_batch_routes(router, services.batches)
    add_file_routes(router, services.files)
    return router


# Asking ---------------------------------------------------------------------------------------------------------------


def create_response(services: Services, event: APIGatewayProxyEventV2) -> Response[str]:
    """Answer a request as a response, or accept it for the background."""
    key_hash = caller_key(event)
    body = read_body(ResponseRequest, body_text(event), responses.UNSUPPORTED, _images(services, key_hash))
    find = _finder(services, key_hash)
    earlier = () if body.previous_response_id is None else conversation_until(body.previous_response_id, find)
    submission = body.submission(earlier, referred_items(find))
    if body.background and not body.stream:
        # Equal responses in the background are different ones, unless the client says that it repeats.
        accepted = services.submitter().submit(key_hash, _repeatable(event, key_hash, submission, None))
        _log(accepted)
        detail = (
            services.reader().detail(key_hash, accepted.request_id)
            if accepted.replayed or accepted.status.is_final
            else detail_of(accepted, submission)
        )
        metrics.add_metric("RequestsAccepted", MetricUnit.Count, 1)
        return answer(200, response_view(_in_place(detail)), _headers(accepted) | _poll_headers(detail))
    try:
        done = _answered(services, event, key_hash, submission)
    except SluiceError as error:
        if error.code != "answer_pending" or not body.background:
            raise
        # Whoever asked for a stream of a background response comes back for the rest of it.
        detail = services.reader().detail(key_hash, error.extra["request_id"])
        return _event_stream(response_stream(detail), {})
    detail = _in_place(done.detail)
    if body.stream:
        return _event_stream(response_stream(detail), _headers(done.accepted))
    return _answer(response_view(detail), _headers(done.accepted))


def create_chat(services: Services, event: APIGatewayProxyEventV2) -> Response[str]:
    """Answer a request as a chat completion."""
    key_hash = caller_key(event)
    body = read_body(ChatRequest, body_text(event), chat.UNSUPPORTED, _images(services, key_hash))
    done = _answered(services, event, key_hash, body.submission())
    detail, headers = _in_place(done.detail), _headers(done.accepted)
    if body.stream:
        return _event_stream(chat_stream(detail, with_usage=body.includes_usage), headers)
    return _answer(chat_view(detail), headers)


def create_embeddings(services: Services, event: APIGatewayProxyEventV2) -> Response[str]:
    """Embed texts."""
    key_hash = caller_key(event)
    body = read_body(EmbeddingRequest, body_text(event), embeddings.UNSUPPORTED)
    done = _answered(services, event, key_hash, body.submission())
    view = embeddings_view(_in_place(done.detail), body.encoding_format)
    return _answer(view, _headers(done.accepted), "Send fewer texts at once, or ask for encoding_format base64.")


def create_image(services: Services, event: APIGatewayProxyEventV2) -> Response[str]:
    """Draw an image."""
    key_hash = caller_key(event)
    body = read_body(ImageRequest, body_text(event), files.IMAGES_UNSUPPORTED)
    done = _answered(services, event, key_hash, body.submission())
    found = services.reader().result(key_hash, done.detail.request_id)
    if found.stored is not None:
        where = services.reader().address(found.stored, _filename(found))
        return _answer(image_view(done.detail, {"url": where}), _headers(done.accepted))
    image = {"b64_json": base64.b64encode(found.content or b"").decode()}
    return _answer(image_view(done.detail, image), _headers(done.accepted))


def create_speech(services: Services, event: APIGatewayProxyEventV2) -> Response[Any]:
    """Read a text aloud."""
    key_hash = caller_key(event)
    body = read_body(SpeechRequest, body_text(event), files.SPEECH_UNSUPPORTED)
    done = _answered(services, event, key_hash, body.submission())
    found = services.reader().result(key_hash, done.detail.request_id)
    if found.stored is not None:
        moved = redirect(303, services.reader().address(found.stored, _filename(found)), found.stored)
        moved.headers.update(_headers(done.accepted))
        return moved
    return Response(200, _mime_type(found), found.content or b"", HEADERS | _headers(done.accepted))


def _mime_type(found: StoredResult) -> str:
    return safe_type(found.output.file.mime_type if found.output.file else "")


def _filename(found: StoredResult) -> str:
    return f"{found.request_id}.{FILE_TYPES[_mime_type(found)]}"


def count_input(services: Services, event: APIGatewayProxyEventV2) -> Response[str]:
    """The most tokens that an input can have: what a request would reserve for it."""
    key_hash = caller_key(event)
    body = read_body(ResponseRequest, body_text(event), responses.UNSUPPORTED, _images(services, key_hash))
    find = _finder(services, key_hash)
    earlier = () if body.previous_response_id is None else conversation_until(body.previous_response_id, find)
    submission = body.submission(earlier, referred_items(find), is_counted=True)
    asked = submission.input
    offer = _offer(services.reader().models(key_hash), submission.model)
    if offer.kind != "chat":
        raise SluiceError("model_kind_differs", "This model does not answer conversations.")
    if asked.image_count and offer.image_tokens is None:
        raise SluiceError("images_not_taken", "This model takes no images.")
    counted = {"object": "response.input_tokens", "input_tokens": _most_tokens(asked, offer)}
    if not body.quote:
        return answer(200, counted)
    return answer(200, counted | {"quote": quote_view(services.quoter().quote(key_hash, submission))})


def _most_tokens(asked: Input, offer: ModelOffer) -> int:
    images = asked.image_count * (offer.image_tokens or 0)
    return asked.byte_length + offer.overhead_tokens + asked.extra_items * offer.item_tokens + images


def _offer(offers: Sequence[ModelOffer], name: str | None) -> ModelOffer:
    for offer in offers:
        if offer.is_default if name is None else name in (offer.model_id, *offer.aliases):
            return offer
    if name is None:
        raise SluiceError("model_missing", "No default model is set: name one.")
    raise SluiceError("model_unknown", f"The model {name!r} does not exist.")


def _answered(services: Services, event: APIGatewayProxyEventV2, key_hash: bytes, submission: Submission) -> Answered:
    """The answered request.

    Raises:
        SluiceError: it was refused, failed, or is not done in time.
    """
    began = time.monotonic()
    foreground = services.foreground()
    after_seconds = foreground.wait_seconds - _REPEAT_MARGIN_SECONDS
    try:
        done = foreground.answer(key_hash, _repeatable(event, key_hash, submission, after_seconds))
    except SluiceError as error:
        name = "AnswersPending" if error.code == "answer_pending" else "RequestsRefused"
        metrics.add_metric(name, MetricUnit.Count, 1)
        raise
    _log(done.accepted)
    metrics.add_metric("RequestsAnswered", MetricUnit.Count, 1)
    metrics.add_metric("AnswerSeconds", MetricUnit.Seconds, time.monotonic() - began)
    detail = done.detail
    if detail.status is not Status.COMPLETED:
        raise SluiceError(
            "request_failed",
            detail.error_message or f"The request was {detail.status} before it was answered.",
            failure=detail.error_code or detail.status.value,
            request_id=detail.request_id,
        )
    return done


def _repeatable(
    event: APIGatewayProxyEventV2, key_hash: bytes, submission: Submission, after_seconds: float | None
) -> Submission:
    """The submission with what a repeat of it is recognised by.

    Raises:
        SluiceError: invalid_input: the idempotency key.
    """
    if (idempotency := idempotency_key(event)) is not None:
        return replace(submission, idempotency_key=idempotency)
    asked = json.dumps([key_hash.hex(), submission.to_json()], sort_keys=True).encode()
    given = event.headers.get("x-stainless-retry-count") or "0"
    is_retry = given.isascii() and given.isdigit() and given.strip("0") != ""
    return replace(submission, repeat=Repeat(hashlib.sha256(asked).hexdigest(), is_retry, after_seconds))


# Stored responses -----------------------------------------------------------------------------------------------------


def retrieve_response(services: Services, key_hash: bytes, response_id: str, query: RetrieveQuery) -> Response[str]:
    """One response of the caller; as a stream, when it has ended."""
    detail = _stored(services, key_hash, response_id)
    if not query.stream:
        headers = {"x-request-id": str(detail.request_id)} | _poll_headers(detail)
        return _answer(response_view(_in_place(detail)), headers)
    if not detail.status.is_final:
        deadline = time.monotonic() + services.foreground().wait_seconds
        wait_until_ended(services.reader().ledger, detail.request_id, deadline)
        detail = _stored(services, key_hash, response_id)
    stream = response_stream(_in_place(detail), query.starting_after)
    return _event_stream(stream, {"x-request-id": str(detail.request_id)})


def cancel_response(services: Services, key_hash: bytes, response_id: str) -> Response[str]:
    """Cancel a response; one that has ended stays as it is."""
    detail = _stored(services, key_hash, response_id)
    if not detail.status.is_final:
        try:
            services.canceller().cancel(key_hash, detail.request_id)
        except SluiceError as error:
            if error.code != "request_finished":
                raise
        detail = _stored(services, key_hash, response_id)
    return answer(200, response_view(detail), {"x-request-id": str(detail.request_id)})


def delete_response(services: Services, key_hash: bytes, response_id: str) -> Response[str]:
    """Erase what a response asked and was answered."""
    services.eraser().erase(key_hash, request_of(response_id))
    return answer(200, {"id": response_id, "object": "response", "deleted": True})


def list_input_items(services: Services, key_hash: bytes, response_id: str, query: PageQuery) -> Response[str]:
    """A page of what a response asked."""
    items = asked_items(_stored(services, key_hash, response_id))
    if query.order == "desc":
        items.reverse()
    if query.after is not None:
        ids = [item["id"] for item in items]
        if query.after not in ids:
            raise invalid(f"There is no item {query.after[:64]!r} in this response.", "after")
        items = items[ids.index(query.after) + 1 :]
    page = items[: query.limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    listed = {"object": "list", "data": page, **ends, "has_more": len(items) > len(page)}
    return _answer(listed, {}, "Ask for fewer items with limit.")


def model_views(offers: Sequence[ModelOffer]) -> list[dict[str, Any]]:
    """The models that a client may name, also by their other names."""
    return [
        {"id": name, "object": "model", "created": int(offer.created_at.timestamp()), "owned_by": "sluice"}
        for offer in offers
        for name in (offer.model_id, *offer.aliases)
    ]


def _stored(services: Services, key_hash: bytes, response_id: str) -> RequestDetail:
    try:
        detail = services.reader().detail(key_hash, request_of(response_id))
        if is_stored(detail):
            return detail
    except SluiceError as error:
        if error.code != "request_not_found":
            raise
    raise SluiceError("request_not_found", f"Response with id {response_id[:64]!r} not found.")


def _images(services: Services, key_hash: bytes) -> Callable[[dict[str, Any]], None]:
    return lambda body: put_images(body, lambda file_id: services.files().image(key_hash, file_id))


def _finder(services: Services, key_hash: bytes) -> Callable[[UUID], RequestDetail]:
    return lambda request_id: services.reader().detail(key_hash, request_id)


# Answers --------------------------------------------------------------------------------------------------------------


def _query(event: APIGatewayProxyEventV2, model: type[M]) -> M:
    given: dict[str, Any] = dict(event.query_string_parameters)
    for name in ("limit", "starting_after"):
        text = given.get(name, "")
        if text.isascii() and text.isdigit() and len(text) < 10:
            given[name] = int(text)
    # What may be included is never there.
    given.pop("include", None)
    given.pop("include[]", None)
    return read_object(model, given)


def _headers(accepted: Accepted) -> dict[str, str]:
    headers = {"x-request-id": str(accepted.request_id), **rate_limit_headers(accepted.quotas)}
    headers |= cache_headers(accepted.cache)
    return headers | ({"Idempotent-Replayed": "true"} if accepted.replayed else {})


def _poll_headers(detail: RequestDetail) -> dict[str, str]:
    """When to ask for an unfinished response again; the polling helpers of OpenAI's clients read it."""
    return {} if detail.status.is_final else {"openai-poll-after-ms": str(POLL_AFTER_SECONDS * 1000)}


def _answer(body: Any, headers: dict[str, str], advice: str = "") -> Response[str]:
    return _sendable(answer(200, body, headers), advice)


def _event_stream(text: str, headers: dict[str, str]) -> Response[str]:
    made = Response(200, "text/event-stream; charset=utf-8", text, HEADERS | headers)
    return _sendable(made, "Ask for it without stream: a stream holds it several times.")


def _sendable(made: Response[str], advice: str) -> Response[str]:
    """An answer, if Lambda can send it: what shows a stored answer may be many times as large.

    Raises:
        SluiceError: request_failed.
    """
    if fits_an_answer(made.body or ""):
        return made
    message = f"The answer is larger than can be sent in this form. {advice}".strip()
    raise SluiceError("request_failed", message, failure="result_too_large")


def _in_place(detail: RequestDetail) -> RequestDetail:
    """A request whose answer, if it has one, is a part of the document that shows it, and no text in the bucket.

    Raises:
        SluiceError: request_failed.
    """
    if detail.output is None or not detail.output.is_elsewhere:
        return detail
    where = f"GET /results/{detail.request_id} has it."
    message = f"The answer is larger than can be sent in this form. {where}"
    raise SluiceError("request_failed", message, failure="result_too_large", request_id=detail.request_id)


def _log(accepted: Accepted) -> None:
    logger.info(
        "replayed" if accepted.replayed else "accepted",
        extra={"request_id": str(accepted.request_id), "user_id": accepted.user_id},
    )
