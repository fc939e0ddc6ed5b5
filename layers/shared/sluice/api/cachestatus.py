"""The headers that say what the answer cache did: Cache-Status (RFC 9211) and Age (RFC 9111)."""

from collections.abc import Mapping
from typing import Any, Final

# What the database says (see cache_look_up), in the words of RFC 9211.
_WORDS: Final = {
    "hit": "hit",
    "follow": "fwd=miss; collapsed",
    "miss": "fwd=miss",
    "refresh": "fwd=request",
    "bypass": "fwd=bypass",
    "uncacheable": "fwd=bypass; detail=sampled",
}


def cache_headers(cache: Mapping[str, Any] | None) -> dict[str, str]:
    """The headers of an accepted request; none if nobody asked the cache."""
    if cache is None:
        return {}
    age = {"Age": str(int(cache["age"]))} if "age" in cache else {}
    return {"Cache-Status": f"sluice; {_WORDS[cache['said']]}"} | age
