"""Answers that are files: their MIME types, and how clients say what they want, in the words of OpenAI's API."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from sluice.domain.documents import JSON_TYPE, TEXT_TYPE, ImageOptions, SpeechOptions
from sluice.domain.fields import Storable, Strict

NO_TYPE: Final = "application/octet-stream"
"""Of bytes without a type of their own: raw audio, for example."""
FILE_TYPES: Final[Mapping[str, str]] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "audio/aac": "aac",
    "audio/flac": "flac",
    NO_TYPE: "bin",
}
"""The MIME types that a file may have, none of which a browser runs, and the endings of their names."""


def safe_type(mime_type: str) -> str:
    """The type under which a file is given out: its own, unless a row says something that it may not be."""
    # A long text, and long JSON, are files too.
    return mime_type if mime_type in FILE_TYPES or mime_type in (TEXT_TYPE, JSON_TYPE) else NO_TYPE


ImageSize = Annotated[str, StringConstraints(pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$")]
ImageQuality = Literal["auto", "low", "medium", "high", "standard", "hd"]
ImageBackground = Literal["auto", "transparent", "opaque"]
ImageFormat = Literal["png", "jpeg", "webp"]
Voice = Annotated[str, Field(min_length=1, max_length=128), Storable]
AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
Speed = Annotated[float, Field(ge=0.25, le=4)]
SpokenStyle = Annotated[str, Field(min_length=1, max_length=4096), Storable]
"""How a voice is to sound."""


class ImageSettings(Strict):
    """How an image is to be drawn. What is left out is the model's choice."""

    size: ImageSize | None = None
    quality: ImageQuality | None = None
    background: ImageBackground | None = None
    output_format: ImageFormat | None = None

    def options(self) -> ImageOptions:
        """As a document."""
        return ImageOptions(
            size=self.size, quality=self.quality, background=self.background, output_format=self.output_format
        )


class SpeechSettings(Strict):
    """How a text is to be read aloud. What is left out is the model's choice."""

    voice: Voice
    response_format: AudioFormat | None = None
    speed: Speed | None = None
    instructions: SpokenStyle | None = None

    def options(self) -> SpeechOptions:
        """As a document."""
        return SpeechOptions(
            voice=self.voice,
            response_format=self.response_format,
            speed=self.speed,
            instructions=self.instructions,
        )
