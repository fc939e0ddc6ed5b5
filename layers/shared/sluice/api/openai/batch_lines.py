"""Lines of batches in the words of OpenAI's API: what each asks, and how it is answered."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from sluice.api.openai import chat, embeddings, responses
from sluice.api.openai.chat import ChatRequest, chat_view
from sluice.api.openai.embeddings import EmbeddingRequest, embeddings_view
from sluice.api.openai.errors import answer_error, unsupported
from sluice.api.openai.file_images import put_images
from sluice.api.openai.reading import read_body
from sluice.api.openai.response_view import response_view
from sluice.api.openai.responses import ResponseRequest
from sluice.domain.documents import Input
from sluice.domain.errors import SluiceError
from sluice.domain.requests import QuotaCounter, RequestDetail, Submission
from sluice.services.submit import refusal


class OpenAiLines:
    """Reads and answers lines; see sluice.services.batch_answers.LineApi.

    Args:
        image: finds an image among the files of a user, as FindImage.
    """

    def __init__(self, image: Callable[[str, UUID | None], str]) -> None:
        self._image = image

    def submission(self, endpoint: str, body: Mapping[str, Any], user_id: str) -> Submission:
        """The request that a body describes.

        Raises:
            SluiceError: it describes none, or one that cannot be part of a batch.
        """
        text = json.dumps(body)

        def images(given: dict[str, Any]) -> None:
            put_images(given, lambda file_id: self._image(user_id, file_id))

        match endpoint:
            case "/v1/chat/completions":
                asked = read_body(ChatRequest, text, chat.UNSUPPORTED, images)
                _refuse("stream", asked.stream)
                return asked.submission()
            case "/v1/embeddings":
                embedded = read_body(EmbeddingRequest, text, embeddings.UNSUPPORTED)
                submission = embedded.submission()
                surface = dict(submission.surface or {})
                echo = surface.get("echo", {}) | {"encoding_format": embedded.encoding_format}
                return replace(submission, surface=surface | {"echo": echo})
        responded = read_body(ResponseRequest, text, responses.UNSUPPORTED, images)
        _refuse("stream", responded.stream)
        _refuse("background", responded.background)
        _refuse("previous_response_id", responded.previous_response_id)
        return responded.submission((), _no_item)

    def answer(self, endpoint: str, detail: RequestDetail) -> Mapping[str, Any]:
        """The body with which a completed request is answered."""
        match endpoint:
            case "/v1/chat/completions":
                return chat_view(detail)
            case "/v1/embeddings":
                return embeddings_view(detail, (detail.surface or {}).get("echo", {}).get("encoding_format"))
        return response_view(detail)

    def error(self, error: SluiceError) -> tuple[int, Mapping[str, Any]]:
        """The status and the body with which an error is answered."""
        answer = answer_error(error)
        return answer.status_code, json.loads(answer.body or "{}")

    def refusal(self, refused: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """The same of what the database refused: outcome, detail, and the model that the line named."""
        detail = refused.get("detail") or {}
        quotas = [QuotaCounter(**counter) for counter in detail.get("quotas", ())]
        asked = Submission(input=Input(messages=()), model=refused.get("model"))
        return self.error(refusal(refused["outcome"], asked, detail, quotas))


def _refuse(param: str, given: object) -> None:
    if given:
        raise unsupported(param, "a line of a batch is answered in a file, by itself")


def _no_item(_: str) -> None:
    raise unsupported("input", "a line of a batch cannot refer to items of earlier responses")
