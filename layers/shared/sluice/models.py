"""The shapes that cross a boundary: what clients send, what the queue carries, what a model is asked."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    model_validator,
)

FIRST_YEAR: Final = 1970
"""Where UUIDv7, by which everything is found in time, begins."""
LAST_YEAR: Final = 9000
"""Python's last is 9999, and another time zone may be a year further."""
METADATA_MAX_KEYS = 16
"""As OpenAI's API has it: at most 16 keys of 64 characters, values of 512."""


def _storable(text: str) -> str:
    # PostgreSQL's text cannot hold U+0000; taking it out silently would change what was asked.
    if "\x00" in text:
        raise ValueError("must not contain the character U+0000")
    return text


# In this form only: pydantic also takes a number of seconds for a time, and other scripts' digits for a number.
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?", re.ASCII)


def _time(value: Any) -> datetime:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("must be a time like 2030-01-31T12:00:00Z")
    at = datetime.fromisoformat(value)
    if at.tzinfo is None:
        raise ValueError("needs a time zone, as in 2030-01-31T12:00:00Z")
    if not FIRST_YEAR < at.year <= LAST_YEAR:  # whatever the zone, not before UUIDv7's first moment
        raise ValueError(f"must be of a year from {FIRST_YEAR + 1} to {LAST_YEAR}")
    return at


Storable = AfterValidator(_storable)
"""Written last: limits after it would be checked, and reported, as those of any Python object."""
Text = Annotated[str, Storable]
Name = Annotated[str, Field(min_length=1, max_length=100), Storable]
StopSequence = Annotated[str, Field(min_length=1, max_length=100), Storable]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]*$", max_length=50)]
"""Ids of users and models: what also fits an SQS message group, a URL and a CSV."""
Time = Annotated[datetime, PlainValidator(_time), PlainSerializer(datetime.isoformat, when_used="json-unless-none")]
TokenLimit = Annotated[int, Field(ge=1, le=10**9)]
"""Two of these and a prompt fit PostgreSQL's integer, which holds their sum."""


class Strict(BaseModel):
    """No unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


# What clients send ----------------------------------------------------------------------------------------------------


class Parameters(Strict):
    """Sampling parameters, in the words and ranges of OpenAI's chat completions."""

    max_tokens: TokenLimit | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: Annotated[list[StopSequence], Field(min_length=1, max_length=4)] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _stop_is_a_list(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("stop"), str):
            return data | {"stop": [data["stop"]]}
        return data


class GenerateRequest(Strict):
    """The body of POST /generate."""

    prompt: Annotated[str, Field(min_length=1), Storable]
    model: Identifier | None = Field(default=None, validation_alias=AliasChoices("model", "model_id"))
    parameters: Parameters = Parameters()
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(min_length=1, max_length=64), Storable],
                Annotated[str, Field(max_length=512), Storable],
            ],
            Field(max_length=METADATA_MAX_KEYS),
        ]
        | None
    ) = None
    ttl_seconds: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """How long it may wait to be begun, from not_before where that is given."""
    expires_at: Time | None = None
    not_before: Time | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.ttl_seconds is not None and self.expires_at is not None:
            raise ValueError("give either ttl_seconds or expires_at, not both")
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_name_for_the_model(cls, data: Any) -> Any:
        if isinstance(data, dict) and "model" in data and "model_id" in data:
            raise ValueError("give either model or model_id, not both")
        return data


# What the queue carries -----------------------------------------------------------------------------------------------


class QueueMessage(Strict):
    """A message is only a pointer: what is to be done stands in the database."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    request_id: UUID


# What a model is asked and answers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A request that this worker has taken, with the model that is to answer it.

    Attributes:
        attempt: the fence: settling needs the same number.
        parameters: max_tokens and the other sampling parameters that were given.
        backend: the protocol that the model speaks, a key of sluice.runtime.backends().
        endpoint: base URL of an OpenAI-compatible API.
        secret_arn: where the endpoint's credentials are, if it wants any.
        timeout_seconds: longest that one call may take.
    """

    request_id: UUID
    attempt: int
    user_id: str
    model_id: str
    prompt: str
    parameters: dict[str, Any]
    backend: str
    backend_model: str
    endpoint: str | None
    secret_arn: str | None
    timeout_seconds: int


@dataclass(frozen=True)
class Completion:
    """A model's answer, with the token counts that it reported itself."""

    text: str
    prompt_tokens: int
    completion_tokens: int
