"""The operations of the API: for each route what may be sent, what is answered, and which errors."""

from typing import Final

from openapi import native_answers as native
from openapi import openai_answers as openai
from openapi import response_answers as response
from openapi.batch_operations import BATCH_OPERATIONS, BATCHES
from openapi.file_operations import FILE_OPERATIONS, FILES, UPLOADS
from openapi.headers import RATE_LIMITS
from openapi.operation import Operation, Result
from openapi.response_events import ResponseEvent
from openapi.webhook_operations import WEBHOOK_OPERATIONS, WEBHOOKS
from sluice.api.exchange import Nothing
from sluice.api.native import reading, results, submission
from sluice.api.native.bodies import GenerateRequest
from sluice.api.openai import routes
from sluice.api.openai.chat import ChatRequest
from sluice.api.openai.embeddings import EmbeddingRequest
from sluice.api.openai.files import ImageRequest, SpeechRequest
from sluice.api.openai.responses import ResponseRequest
from sluice.domain.files import FILE_TYPES
from sluice.domain.history import HistoryQuery

# Errors ---------------------------------------------------------------------------------------------------------------

_REFUSALS: Final = (
    "body_not_json",
    "invalid_input",
    "prompt_too_long",
    "model_unknown",
    "model_missing",
    "model_not_allowed",
    "model_kind_differs",
    "schema_refused",
    "max_tokens_exceeded",
    "max_cost_exceeded",
    "lifetime_invalid",
    "idempotency_conflict",
    "quota_too_small",
    "budget_too_small",
    "model_unpriced",
    "budget_currency_differs",
    "quota_exceeded",
    "quota_reserved",
    "budget_exceeded",
    "budget_reserved",
    "unfinished_exceeded",
)
_ACCEPTED: Final = (*_REFUSALS, "storage_unavailable")
_ANSWERED: Final = (
    *_ACCEPTED,
    "images_not_taken",
    "parameter_unsupported",
    "request_not_found",
    "request_failed",
    "answer_pending",
)
_IMAGE_FILES: Final = ("file_not_found", "file_refused")
# Also where it is erased while its caller waits.
_ANSWERED_FILES: Final = (*_ANSWERED, "result_not_found")
NO_ROUTE: Final = "route_not_found"
"""The answer to a method and path that are no route, which belongs to no operation."""

# Headers --------------------------------------------------------------------------------------------------------------

_CACHED: Final = ("Cache-Status", "Age")
_ASKED: Final = ("x-request-id", "Idempotent-Replayed", *_CACHED, *RATE_LIMITS)
_POLL: Final = "openai-poll-after-ms"
_STORED: Final = ("ETag", "Accept-Ranges", "Content-Disposition")
_MOVED: Final = ("Location", "Repr-Digest")
_PARTS: Final = ("etag_differs", "range_not_satisfiable")
_RESULT_TYPES: Final = ("text/plain", "application/json", *FILE_TYPES)


_STREAM: Final = "With `stream: true`, the answer is an event stream. It is sent whole, when the answer is there."
_PENDING: Final = (
    "Waits for the answer as long as a connection may be held, then says `answer_pending`: the same call, sent again, "
    "goes on waiting for the same request, as OpenAI's clients do by themselves."
)
_REQUESTS, _READING, _SERVICE = "Requests", "Reading", "Service"
_RESPONSES, _CHAT, _EMBEDDINGS, _MODELS = "Responses", "Chat completions", "Embeddings", "OpenAI models"
_IMAGES, _SPEECH = "Images", "Speech"
TAGS: Final = {
    _REQUESTS: "Handing in prompts, and cancelling them.",
    _READING: "What became of them, and what was used.",
    _SERVICE: "The service itself; these need no key.",
    _RESPONSES: "OpenAI's Responses API.",
    _CHAT: "OpenAI's Chat Completions API.",
    _EMBEDDINGS: "OpenAI's Embeddings API.",
    _IMAGES: "OpenAI's Images API, as far as it makes images of a text.",
    _SPEECH: "OpenAI's Audio API, as far as it reads texts aloud.",
    _MODELS: "OpenAI's Models API.",
    FILES: "OpenAI's Files API: what batches read and write, and images that requests refer to.",
    UPLOADS: "OpenAI's Uploads API: files that come in parts.",
    BATCHES: "OpenAI's Batch API: many requests in a file, whose answers are in a file.",
    WEBHOOKS: "OpenAI's webhook endpoints, and what was sent to them.",
}

OPERATIONS: Final = (
    Operation(
        "POST",
        "/generate",
        "generate",
        submission.generate,
        _REQUESTS,
        "submit",
        (
            Result(
                202,
                "It is accepted, or the call repeats that of an unfinished request.",
                native.Accepted,
                ("Location", "Retry-After", "Idempotent-Replayed", *_CACHED, *RATE_LIMITS),
            ),
            Result(
                200,
                "It was answered from the cache, or the call repeats that of a request that has ended; or, with "
                "`Prefer: wait`, the request itself.",
                (native.Accepted, native.Request),
                ("Location", "Idempotent-Replayed", "Preference-Applied", *_CACHED, *RATE_LIMITS),
            ),
        ),
        errors=_ACCEPTED,
        body=GenerateRequest,
        headers=("Idempotency-Key", "Prefer"),
        summary="Accept a request",
    ),
    Operation(
        "GET",
        "/status/{request_id}",
        "getRequest",
        reading.get_request,
        _READING,
        "read",
        (Result(200, "The request; `Retry-After` while it is unfinished.", native.Request, ("Retry-After",)),),
        errors=("invalid_input", "request_not_found"),
        query=reading.StatusQuery,
    ),
    Operation(
        "GET",
        "/results/{request_id}",
        "getResult",
        results.get_result,
        _READING,
        "read",
        (
            Result(200, "The answer.", None, (*_STORED, "Content-Length"), types=_RESULT_TYPES),
            Result(
                206,
                "The part of it that was asked for.",
                None,
                (*_STORED, "Content-Length", "Content-Range"),
                types=_RESULT_TYPES,
            ),
            Result(302, "It is a large file: where it can be fetched for some minutes.", None, _MOVED, is_empty=True),
            Result(304, "The client has it already.", None, _STORED, is_empty=True),
        ),
        errors=(
            "invalid_input",
            "request_not_found",
            "result_not_found",
            "result_not_ready",
            "storage_unavailable",
            *_PARTS,
        ),
        headers=("Range", "If-Range", "If-Match", "If-None-Match"),
        summary="The answer of one request by itself",
        description="An image or a recording as it is; text as text; vectors as JSON, in base64.",
    ),
    Operation(
        "POST",
        "/requests/{request_id}/cancel",
        "cancelRequest",
        submission.cancel,
        _REQUESTS,
        "submit",
        (
            Result(200, "It is cancelled.", native.CancelledRequest),
            Result(
                202,
                "It will be cancelled when its worker has answered.",
                native.CancelledRequest,
                ("Location", "Retry-After"),
            ),
        ),
        errors=("body_not_json", "invalid_input", "request_not_found", "request_finished"),
        body=Nothing,
        body_needed=False,
        summary="Cancel a request",
    ),
    Operation(
        "POST",
        "/quote",
        "quoteRequest",
        submission.quote,
        _REQUESTS,
        "submit",
        (Result(200, "The quote.", native.QuoteAnswer),),
        errors=_REFUSALS,
        body=GenerateRequest,
        summary="What a request would use and cost",
        description="Nothing is accepted. A request that would be refused for now is quoted with its refusal.",
    ),
    Operation(
        "DELETE",
        "/cache",
        "purgeCache",
        submission.purge,
        _REQUESTS,
        "submit",
        (Result(200, "They are found no longer.", native.PurgedCache),),
        errors=("invalid_input",),
        summary="Forget the cached answers of the caller",
        description="The requests that have them keep them.",
    ),
    Operation(
        "GET",
        "/requests",
        "listRequests",
        reading.get_history,
        _READING,
        "read",
        (Result(200, "The page; there may be another one even if this one is empty.", native.RequestPage),),
        errors=("invalid_input",),
        query=HistoryQuery,
    ),
    Operation(
        "GET",
        "/usage",
        "getUsage",
        reading.get_usage,
        _READING,
        "read",
        (Result(200, "Limits as of now, and usage by day and month.", native.Usage),),
        errors=("invalid_input",),
        query=reading.UsageQuery,
    ),
    Operation(
        "GET",
        "/models",
        "listModels",
        reading.get_models,
        _READING,
        "read",
        (Result(200, "The models.", native.ModelList),),
        errors=("invalid_input",),
    ),
    Operation(
        "GET",
        "/health",
        "getHealth",
        reading.get_health,
        _SERVICE,
        None,
        (
            Result(200, "The database answers.", native.Healthy),
            Result(503, "The database does not answer.", native.Unhealthy, ("Retry-After",)),
        ),
        errors=("invalid_input",),
        summary="Whether the service can answer requests",
        description="The database is asked once in a few seconds; meanwhile the same finding is given out.",
    ),
    Operation(
        "GET",
        "/openapi.json",
        "getDescription",
        reading.get_description,
        _SERVICE,
        None,
        (Result(200, "This document.", None),),
        errors=("invalid_input",),
    ),
    Operation(
        "POST",
        "/v1/responses",
        "createResponse",
        routes.create_response,
        _RESPONSES,
        "submit",
        (
            Result(
                200,
                "The response; with `background`, as it is now.",
                response.Response,
                (*_ASKED, _POLL),
                ResponseEvent,
            ),
        ),
        errors=(*_ANSWERED, *_IMAGE_FILES),
        body=ResponseRequest,
        headers=("Idempotency-Key", "x-stainless-retry-count"),
        description=f"{_PENDING} {_STREAM} A key needs the scope `read` too for `previous_response_id` and `file_id`.",
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}",
        "retrieveResponse",
        routes.retrieve_response,
        _RESPONSES,
        "read",
        (Result(200, "The response as it is now.", response.Response, ("x-request-id", _POLL), ResponseEvent),),
        errors=("invalid_input", "request_not_found", "request_failed", "storage_unavailable"),
        query=routes.RetrieveQuery,
        summary="One response of the caller",
        description="With `stream=true`, waits for its end and answers with its events.",
    ),
    Operation(
        "DELETE",
        "/v1/responses/{response_id}",
        "deleteResponse",
        routes.delete_response,
        _RESPONSES,
        "submit",
        (Result(200, "It is erased; what it used and cost stays.", response.DeletedResponse),),
        errors=("request_not_found",),
    ),
    Operation(
        "POST",
        "/v1/responses/{response_id}/cancel",
        "cancelResponse",
        routes.cancel_response,
        _RESPONSES,
        "submit",
        (Result(200, "The response as it is now.", response.Response, ("x-request-id",)),),
        errors=("request_not_found", "storage_unavailable"),
        description="A key needs the scope `read` too. While a worker has it, its status is still `in_progress`.",
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}/input_items",
        "listInputItems",
        routes.list_input_items,
        _RESPONSES,
        "read",
        (Result(200, "The page.", response.InputItems),),
        errors=("invalid_input", "request_not_found", "storage_unavailable"),
        query=routes.PageQuery,
    ),
    Operation(
        "POST",
        "/v1/responses/input_tokens",
        "countInputTokens",
        routes.count_input,
        _RESPONSES,
        "read",
        (Result(200, "The number of tokens.", response.InputTokens),),
        errors=(
            "body_not_json",
            "invalid_input",
            "storage_unavailable",
            "parameter_unsupported",
            "model_unknown",
            "model_missing",
            "model_kind_differs",
            "images_not_taken",
            "prompt_too_long",
            *_IMAGE_FILES,
        ),
        body=ResponseRequest,
        summary="The most tokens that an input can have",
        description="It is what a request would reserve for its input: at most one token for each byte of text.",
    ),
    Operation(
        "POST",
        "/v1/chat/completions",
        "createChatCompletion",
        routes.create_chat,
        _CHAT,
        "submit",
        (Result(200, "The answer.", openai.ChatCompletion, _ASKED, openai.ChatCompletionChunk),),
        errors=(*_ANSWERED, *_IMAGE_FILES),
        body=ChatRequest,
        headers=("Idempotency-Key", "x-stainless-retry-count"),
        description=f"{_PENDING} {_STREAM}",
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        "createEmbeddings",
        routes.create_embeddings,
        _EMBEDDINGS,
        "submit",
        (Result(200, "The vectors.", openai.EmbeddingList, _ASKED),),
        errors=_ANSWERED,
        body=EmbeddingRequest,
        headers=("Idempotency-Key", "x-stainless-retry-count"),
        description=_PENDING,
    ),
    Operation(
        "POST",
        "/v1/images/generations",
        "createImage",
        routes.create_image,
        _IMAGES,
        "submit",
        (Result(200, "The image.", openai.ImageList, _ASKED),),
        errors=_ANSWERED_FILES,
        body=ImageRequest,
        headers=("Idempotency-Key", "x-stainless-retry-count"),
        description=_PENDING,
    ),
    Operation(
        "POST",
        "/v1/audio/speech",
        "createSpeech",
        routes.create_speech,
        _SPEECH,
        "submit",
        (
            Result(
                200,
                "The recording.",
                None,
                _ASKED,
                types=tuple(each for each in FILE_TYPES if not each.startswith("image/")),
            ),
            Result(
                303,
                "It is a large file: where it can be fetched for some minutes.",
                None,
                (*_ASKED, *_MOVED),
                is_empty=True,
            ),
        ),
        errors=_ANSWERED_FILES,
        body=SpeechRequest,
        headers=("Idempotency-Key", "x-stainless-retry-count"),
        description=_PENDING,
    ),
    Operation(
        "GET",
        "/v1/models",
        "listOpenAIModels",
        routes.model_views,
        _MODELS,
        "read",
        (Result(200, "The models.", openai.OpenAIModelList),),
    ),
    Operation(
        "GET",
        "/v1/models/{model}",
        "retrieveOpenAIModel",
        routes.model_views,
        _MODELS,
        "read",
        (Result(200, "The model.", openai.OpenAIModel),),
        errors=("model_unknown",),
        summary="One model that a client may name",
    ),
    *FILE_OPERATIONS,
    *BATCH_OPERATIONS,
    *WEBHOOK_OPERATIONS,
)
