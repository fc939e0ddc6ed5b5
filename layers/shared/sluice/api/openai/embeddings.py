"""POST /v1/embeddings: what is asked, and the answer."""

import base64
import struct
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from sluice.api.openai.shapes import Label
from sluice.domain.caching import Cache, cache_json
from sluice.domain.documents import Input, Message, OutputEmbedding, TextPart, TokensPart
from sluice.domain.fields import Identifier, Price, Storable, Strict, WebhookUrl
from sluice.domain.requests import RequestDetail, Submission

API: Final = "embeddings"
MAX_TEXTS: Final = 2048
"""As OpenAI's API has it."""
UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {}

_Said = Annotated[str, Field(min_length=1), Storable]
_Token = Annotated[int, Field(ge=0, lt=2**31)]
_Tokens = Annotated[list[_Token], Field(min_length=1)]


class EmbeddingRequest(Strict):
    """The body of POST /v1/embeddings: one text or several, each as text or as the ids of its tokens."""

    model: Identifier | None = None
    input: (
        _Said
        | _Tokens
        | Annotated[list[_Said], Field(min_length=1, max_length=MAX_TEXTS)]
        | Annotated[list[_Tokens], Field(min_length=1, max_length=MAX_TEXTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=100_000)] | None = None
    user: Label | None = None
    cache: Cache | None = None
    max_cost: Price | None = None
    webhook: WebhookUrl | None = None

    def submission(self) -> Submission:
        """The request that the body describes."""
        given = self.input
        texts: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)
        return Submission(
            input=Input(
                messages=tuple(Message(role="user", content=(_part(text),)) for text in texts),
                dimensions=self.dimensions,
            ),
            model=self.model,
            surface={"api": API, "echo": {"user": self.user} if self.user else {}},
            kind="embedding",
            cache=cache_json(self.cache),
            max_cost=None if self.max_cost is None else str(self.max_cost),
            webhook=self.webhook,
        )


def _part(text: str | list[int]) -> TextPart | TokensPart:
    return TextPart(text=text) if isinstance(text, str) else TokensPart(type="tokens", tokens=tuple(text))


def embeddings_view(detail: RequestDetail, encoding_format: str | None) -> dict[str, Any]:
    """A completed request as a list of embeddings."""
    vectors = (
        [item.vector for item in detail.output.items if isinstance(item, OutputEmbedding)] if detail.output else []
    )
    return {
        "object": "list",
        "model": detail.model_id,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": vector if encoding_format == "base64" else numbers(vector),
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": detail.prompt_tokens or 0, "total_tokens": detail.total_tokens or 0},
    }


def numbers(vector: str) -> list[float]:
    """A stored vector as numbers, with as many digits as a 32-bit float has: JSON would write twice as many."""
    packed = base64.b64decode(vector)
    return [float(f"{number:.9g}") for number in struct.unpack(f"<{len(packed) // 4}f", packed)]
