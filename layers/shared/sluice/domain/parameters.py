"""Sampling parameters."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from sluice.domain.fields import Storable, Strict, TokenLimit

StopSequence = Annotated[str, Field(min_length=1, max_length=100), Storable]


class Parameters(Strict):
    """Sampling parameters, in the words and ranges of OpenAI's chat completions."""

    max_tokens: TokenLimit | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: Annotated[list[StopSequence], Field(min_length=1, max_length=4)] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _stop_as_list(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("stop"), str):
            return data | {"stop": [data["stop"]]}
        return data
