"""Sampling parameters."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from sluice.domain.fields import Storable, Strict, TokenLimit

Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
StopSequence = Annotated[str, Field(min_length=1, max_length=100), Storable]
StopSequences = Annotated[list[StopSequence], Field(min_length=1, max_length=4)]


class Parameters(Strict):
    """Sampling parameters, in the words and ranges of OpenAI's chat completions."""

    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: StopSequences | None = None
    seed: Seed | None = None

    @model_validator(mode="before")
    @classmethod
    def _stop_as_list(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("stop"), str):
            return data | {"stop": [data["stop"]]}
        return data
