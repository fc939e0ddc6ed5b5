"""The shapes that cross a boundary: what clients and operators send, what the queue carries, what a model is asked."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

LAST_YEAR = 9000
"""Python's last is 9999, and another time zone may be a year further."""
METADATA_MAX_KEYS = 16
"""As OpenAI's API has it: at most 16 keys of 64 characters, values of 512."""


def _storable(text: str) -> str:
    # PostgreSQL's text cannot hold U+0000; taking it out silently would change what was asked.
    if "\x00" in text:
        raise ValueError("must not contain the character U+0000")
    return text


Storable = AfterValidator(_storable)
"""Written last: limits after it would be checked, and reported, as those of any Python object."""
Text = Annotated[str, Storable]
Name = Annotated[str, Field(min_length=1, max_length=100), Storable]
StopSequence = Annotated[str, Field(min_length=1, max_length=100), Storable]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]*$", max_length=50)]
"""Ids of users and models: what also fits an SQS message group, a URL and a CSV."""
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


# What operators send --------------------------------------------------------------------------------------------------


class UserCreate(Strict):
    user_id: Identifier
    name: Name | None = None
    email: Annotated[str, Field(max_length=255, pattern=r"^[^@\s]+@[^@\s]+$"), Storable] | None = None
    tier: Identifier = "basic"


class UserList(Strict):
    after: Text = ""
    limit: int = Field(default=100, ge=1, le=1000)


class KeyCreate(Strict):
    user_id: Identifier
    name: Name | None = None
    scopes: list[Literal["submit", "read"]] = Field(default=["submit", "read"], min_length=1)
    expires_at: datetime | None = None

    @model_validator(mode="after")
    def _expiry_has_a_zone(self) -> "KeyCreate":
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError("expires_at needs a time zone, as in 2030-01-01T00:00:00Z")
        if self.expires_at is not None and self.expires_at.year > LAST_YEAR:
            raise ValueError(f"expires_at must not be after {LAST_YEAR}; leave it out for a key that never expires")
        return self


class KeyList(Strict):
    user_id: Identifier


class KeyRevoke(Strict):
    key_id: UUID


Price = Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=10)]


class Prices(Strict):
    """Per million tokens, in USD; as strings, so that no binary fraction comes between."""

    prompt: Price | None = None
    completion: Price | None = None


class ModelSet(Strict):
    model_id: Identifier
    backend: Literal["openai", "bedrock"]
    backend_model: Annotated[str, Field(min_length=1, max_length=200), Storable]
    # Without user:password@: credentials belong in a secret.
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$"), Storable] | None = None
    secret_arn: Annotated[str, Field(min_length=1), Storable] | None = None
    max_tokens_default: TokenLimit = 256
    max_tokens_limit: TokenLimit = 1024
    overhead_tokens: int = Field(default=64, ge=0, le=10**9)
    timeout_seconds: int = Field(default=60, ge=1, le=900)
    is_default: bool = False
    is_active: bool = True
    prices: Prices = Prices()

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSet":
        if self.backend == "openai" and self.endpoint is None:
            raise ValueError("a model of the openai backend needs an endpoint")
        if self.max_tokens_default > self.max_tokens_limit:
            raise ValueError("max_tokens_default must not exceed max_tokens_limit")
        if self.is_default and not self.is_active:
            raise ValueError("the default model must be active")
        return self


class Nothing(Strict):
    """An operation without arguments."""


class AdminEvent(Strict):
    """What AdminFunction is invoked with."""

    operation: str
    arguments: dict[str, JsonValue] = {}


RollupTask = Literal["recover", "usage", "stats", "partitions", "archive"]


class RollupEvent(Strict):
    """What RollupFunction is invoked with: the tasks to run, in this order."""

    tasks: Annotated[list[RollupTask], Field(min_length=1)]
