"""What Lambda can answer with."""

import json
from typing import Final

MAX_ANSWER_BYTES: Final = 6_000_000
"""Lambda answers with 6 MB at most, of which the answer's other members take some."""
MAX_FILE_BYTES: Final = 4_194_304
"""An answer that is a file: in base64, as Lambda answers with it, a third more. The table binary_results has the same
limit."""
# A character takes at most so many bytes in JSON: \uXXXX.
_MOST_ESCAPED: Final = 6


def fits_an_answer(text: str) -> bool:
    """Whether Lambda can return a text as the body of an answer over HTTP, where it is escaped as JSON (once more)."""
    if len(text) <= MAX_ANSWER_BYTES // _MOST_ESCAPED:
        return True
    return len(json.dumps(text, ensure_ascii=False).encode()) <= MAX_ANSWER_BYTES
