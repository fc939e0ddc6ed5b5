"""What clients send."""

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from sluice.domain.caching import Cache, cache_json
from sluice.domain.documents import Input, ResponseFormat, schema_text
from sluice.domain.fields import Identifier, Metadata, Price, Storable, Strict, Time, WebhookUrl
from sluice.domain.files import ImageSettings, SpeechSettings
from sluice.domain.parameters import Parameters
from sluice.domain.requests import Submission
from sluice.domain.routing import ModelNames, RepairAttempts, candidates, repairs
from sluice.domain.windows import CompletionWindow, window_of


class GenerateRequest(Strict):
    """The body of POST /generate."""

    prompt: Annotated[str, Field(min_length=1), Storable]
    model: Identifier | None = Field(default=None, validation_alias=AliasChoices("model", "model_id"))
    parameters: Parameters = Parameters()
    metadata: Metadata | None = None
    ttl_seconds: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """How long it may wait to be started, from not_before where that is given."""
    expires_at: Time | None = None
    not_before: Time | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    """A JSON Schema that the answer must fit; the answer is then JSON."""
    repair_attempts: RepairAttempts | None = None
    cache: Cache | None = None
    max_cost: Price | None = None
    """Refuse the request if it may cost more, in the currency of the caller's price list."""
    webhook: WebhookUrl | None = None
    """Is told how the request ended."""
    window: CompletionWindow | Literal["soonest"] | None = None
    """Within which time the answer is needed: whoever can wait may pay less."""
    models: ModelNames | None = None
    """Models that may answer, in order; after `model` if that is given too. None: the operator's fallbacks apply."""
    image: ImageSettings | None = None
    """The answer is to be an image of what the prompt describes; `model` is one that draws."""
    speech: SpeechSettings | None = None
    """The answer is to be the prompt read aloud; `model` is one that speaks."""

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.ttl_seconds is not None and self.expires_at is not None:
            raise ValueError("give either ttl_seconds or expires_at, not both")
        if self.repair_attempts is not None and self.schema_ is None:
            raise ValueError("repair_attempts is for answers that must fit a schema: give one")
        if self.image is not None and self.speech is not None:
            raise ValueError("give either image or speech, not both")
        is_file = self.image is not None or self.speech is not None
        if is_file and (self.schema_ is not None or self.parameters.model_dump(exclude_none=True)):
            raise ValueError("parameters and schema are for answers in text, not for an image or speech")
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_name_for_the_model(cls, data: Any) -> Any:
        if isinstance(data, dict) and "model" in data and "model_id" in data:
            raise ValueError("give either model or model_id, not both")
        return data

    def submission(self, idempotency_key: str | None = None) -> Submission:
        """The request that the body describes."""
        asked = Input.of_prompt(self.prompt)
        if self.schema_ is not None:
            form = ResponseFormat(type="json_schema", schema_text=schema_text(self.schema_))
            asked = asked.model_copy(update={"response_format": form})
        if self.image is not None:
            asked = asked.model_copy(update={"image": self.image.options()})
        if self.speech is not None:
            asked = asked.model_copy(update={"speech": self.speech.options()})
        model, fallbacks = candidates(self.model, self.models)
        return Submission(
            input=asked,
            model=model,
            fallbacks=fallbacks,
            repair_attempts=repairs(asked.response_format, self.repair_attempts),
            cache=cache_json(self.cache),
            max_cost=None if self.max_cost is None else str(self.max_cost),
            webhook=self.webhook,
            window=window_of(self.window),
            parameters=self.parameters.model_dump(exclude_none=True),
            metadata=self.metadata,
            ttl_seconds=self.ttl_seconds,
            expires_at=self.expires_at,
            not_before=self.not_before,
            idempotency_key=idempotency_key,
            kind="image" if self.image is not None else "speech" if self.speech is not None else None,
        )
