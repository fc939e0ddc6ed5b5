"""The vectors in an answer of embeddings: as lists of numbers, or in base64 as OpenAI's own clients ask for them."""

import base64
import binascii
import math
import struct
from typing import Any, Final

from sluice.backends.parts import UnreadableError
from sluice.domain.documents import Output, OutputEmbedding

_FLOAT_BYTES: Final = 4


def read_vectors(document: dict[str, Any], expected: int) -> Output:
    """The vectors, in the order of the texts.

    Args:
        expected: how many texts there were.

    Raises:
        UnreadableError: there are not as many vectors, they are not of one length, or something in them is no finite
            number.
    """
    data = document.get("data")
    if not isinstance(data, list) or len(data) != expected or not all(isinstance(each, dict) for each in data):
        raise UnreadableError
    # Servers that tell no index answer in order.
    indexes = [each.get("index") for each in data]
    if any(index is not None for index in indexes):
        if any(type(index) is not int for index in indexes) or sorted(indexes) != list(range(expected)):
            raise UnreadableError
        data = sorted(data, key=lambda each: each["index"])
    vectors = [_packed(each.get("embedding")) for each in data]
    if len({len(vector) for vector in vectors}) != 1:
        raise UnreadableError
    return Output(items=tuple(OutputEmbedding(vector=base64.b64encode(vector).decode()) for vector in vectors))


def _packed(vector: Any) -> bytes:
    """The vector as 32-bit floats, little-endian; never empty."""
    try:
        if isinstance(vector, str):
            packed = base64.b64decode(vector, validate=True)
            numbers = struct.unpack(f"<{len(packed) // _FLOAT_BYTES}f", packed)
        else:
            # A bool would be packed as a number.
            numbers = tuple(vector) if {*map(type, vector)} <= {int, float} else ()
            packed = struct.pack(f"<{len(numbers)}f", *numbers)
        if numbers and all(map(math.isfinite, numbers)):
            return packed
    except (TypeError, ValueError, OverflowError, struct.error, binascii.Error):
        # Raised below, without what was read.
        pass
    raise UnreadableError
