"""How usage is broken down."""

from typing import Self

from pydantic import model_validator

from sluice.domain.fields import Flag, Strict, TagName


class Breakdown(Strict):
    """By API key, or by the values of a tag (a member of the requests' metadata), or not at all."""

    by_key: Flag = False
    by_tag: TagName | None = None

    @model_validator(mode="after")
    def _one_at_a_time(self) -> Self:
        if self.by_key and self.by_tag is not None:
            raise ValueError("give either by_key or by_tag, not both")
        return self

    @property
    def attribute(self) -> str | None:
        """The attribute in the database's words; None: no breakdown."""
        if self.by_key:
            return "key"
        return None if self.by_tag is None else f"tag:{self.by_tag}"
