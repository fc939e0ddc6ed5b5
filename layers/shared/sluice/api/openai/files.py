"""POST /v1/images/generations and POST /v1/audio/speech: what is asked, and the answers."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field

from sluice.api.openai.shapes import Label
from sluice.domain.caching import Cache, cache_json
from sluice.domain.documents import Input
from sluice.domain.fields import Identifier, Storable, WebhookUrl
from sluice.domain.files import ImageSettings, SpeechSettings
from sluice.domain.requests import RequestDetail, Submission

IMAGES: Final = "images"
SPEECH: Final = "speech"
IMAGES_UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "response_format": ("b64_json",),
    "stream": (False,),
    "partial_images": (0,),
    "output_compression": (100,),
    "moderation": ("auto",),
    "style": (),
}
SPEECH_UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {"stream_format": ("audio",)}


class ImageRequest(ImageSettings):
    """The body of POST /v1/images/generations."""

    prompt: Annotated[str, Field(min_length=1), Storable]
    model: Identifier | None = None
    user: Label | None = None
    cache: Cache | None = None
    webhook: WebhookUrl | None = None

    def submission(self) -> Submission:
        """The request that the body describes."""
        return Submission(
            input=Input.of_prompt(self.prompt).model_copy(update={"image": self.options()}),
            model=self.model,
            surface={"api": IMAGES, "echo": {"user": self.user} if self.user else {}},
            kind="image",
            cache=cache_json(self.cache),
            webhook=self.webhook,
        )


class SpeechRequest(SpeechSettings):
    """The body of POST /v1/audio/speech."""

    input: Annotated[str, Field(min_length=1), Storable]
    model: Identifier | None = None
    cache: Cache | None = None
    webhook: WebhookUrl | None = None

    def submission(self) -> Submission:
        """The request that the body describes."""
        return Submission(
            input=Input.of_prompt(self.input).model_copy(update={"speech": self.options()}),
            model=self.model,
            surface={"api": SPEECH, "echo": {}},
            kind="speech",
            cache=cache_json(self.cache),
            webhook=self.webhook,
        )


def image_view(detail: RequestDetail, image: Mapping[str, str]) -> dict[str, Any]:
    """A completed request as a list of one image.

    Args:
        image: b64_json, the image itself; or url, where it can be fetched, of one that is too large for an answer.
    """
    asked = detail.input.image
    told = {"size": asked.size, "quality": asked.quality, "background": asked.background} if asked else {}
    prompt, completion = detail.prompt_tokens or 0, detail.completion_tokens or 0
    mime_type = detail.output.file.mime_type if detail.output and detail.output.file else ""
    return {
        "created": int(detail.created_at.timestamp()),
        "data": [dict(image)],
        "output_format": mime_type.removeprefix("image/"),
        **{name: value for name, value in told.items() if value not in (None, "auto")},
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"text_tokens": prompt, "image_tokens": 0},
            "output_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }
