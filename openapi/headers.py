"""The headers of requests and answers."""

from typing import Any, Final

from sluice.api.exchange import IDEMPOTENCY_KEY_MAX

RATE_LIMITS: Final = tuple(
    f"x-ratelimit-{fact}-{kind}" for kind in ("requests", "tokens") for fact in ("limit", "remaining", "reset")
)
EVERYWHERE: Final = ("Cache-Control", "X-Content-Type-Options")
"""Of every answer."""
OPENAI_ERRORS: Final = ("x-should-retry", "Retry-After", "retry-after-ms")
"""Of every error under /v1."""

HEADERS: Final[dict[str, dict[str, Any]]] = {
    "Cache-Control": {
        "description": "`no-store`; of results `private, no-cache`; of this document `public`.",
        "schema": {"type": "string"},
    },
    "X-Content-Type-Options": {"description": "`nosniff`", "schema": {"const": "nosniff"}},
    "Location": {
        "description": "Where the request is, relative to the base URL; of a large file, where it can be fetched.",
        "schema": {"type": "string"},
    },
    "Repr-Digest": {
        "description": "The SHA-256 of the file (RFC 9530).",
        "schema": {"type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"},
    },
    "Retry-After": {"description": "Seconds to wait before asking again.", "schema": {"type": "integer"}},
    "Cache-Status": {
        "description": "What the answer cache did (RFC 9211); absent where nobody asked it.",
        "schema": {"type": "string"},
    },
    "Age": {"description": "How old an answer from the cache is, in seconds.", "schema": {"type": "integer"}},
    "Idempotent-Replayed": {
        "description": "This is the answer to a repeat; absent otherwise.",
        "schema": {"const": "true"},
    },
    "ETag": {"description": "The SHA-256 of the answer.", "schema": {"type": "string", "pattern": '^"[0-9a-f]{64}"$'}},
    "Accept-Ranges": {"description": "Parts can be asked for.", "schema": {"const": "bytes"}},
    "Content-Range": {
        "description": "Which part this is, of how many bytes; with 416 only of how many.",
        "schema": {"type": "string", "pattern": r"^bytes (\d+-\d+|\*)/\d+$"},
    },
    "Content-Length": {"description": "Bytes of this answer.", "schema": {"type": "integer"}},
    "Content-Disposition": {
        "description": "A name for the file: the request's id, and an ending for its type.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "How to send the key.", "schema": {"const": 'Bearer realm="sluice"'}},
    "x-request-id": {
        "description": "The request's id on Sluice's own routes.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "Preference-Applied": {"description": "The answer was waited for.", "schema": {"const": "wait"}},
    "openai-poll-after-ms": {
        "description": "Milliseconds to wait before asking for an unfinished response again.",
        "schema": {"type": "integer"},
    },
    "x-should-retry": {
        "description": "Tells OpenAI's clients whether sending it again makes sense.",
        "schema": {"enum": ["true", "false"]},
    },
    "retry-after-ms": {
        "description": "Milliseconds to wait before sending it again.",
        "schema": {"type": "integer"},
    },
    **{
        name: {
            "description": {
                "limit": "The limit of the period that is nearest to it",
                "remaining": "What is left of it",
                "reset": "Seconds until it resets",
            }[name.split("-")[2]]
            + f" ({name.split('-')[3]}); absent where nothing is limited.",
            "schema": {"type": "integer"},
        }
        for name in RATE_LIMITS
    },
}
SENT: Final[dict[str, dict[str, Any]]] = {
    "Idempotency-Key": {
        "description": "The same key with the same body is answered with the first request.",
        "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX, "pattern": "^[!-+\\--~ ]+$"},
    },
    "Range": {
        "description": "`bytes=first-last`, `bytes=first-` or `bytes=-length`: one part. Anything else is ignored.",
        "schema": {"type": "string"},
    },
    "If-Range": {"description": "`Range` counts only if this is the `ETag`.", "schema": {"type": "string"}},
    "If-Match": {"description": "`ETag`s of what the client has a part of.", "schema": {"type": "string"}},
    "If-None-Match": {"description": "`ETag`s of what the client has already.", "schema": {"type": "string"}},
    "Prefer": {
        "description": "`wait=N`: to wait for the answer for up to so many seconds (RFC 7240).",
        "schema": {"type": "string"},
    },
    "x-stainless-retry-count": {
        "description": "Sent by OpenAI's clients: above 0, the call is taken for a repeat of an equal one.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
