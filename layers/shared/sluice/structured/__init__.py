"""Structured output: JSON Schemas that clients give, and whether a model's answer matches one.

Schemas and answers are nobody's whom we trust. A schema is checked when its request is accepted (rules.py): what the
compiler would take too long for is counted, and refused, before it is compiled. An answer is validated in a child
process (validator.py, child.py), because how long that takes cannot be told beforehand, and the library cannot be
interrupted. Nothing is ever fetched: every reference stays in its document.

What is supported: JSON Schema 2020-12, 2019-09 and draft 7, in one document, where only the top may have an `$id`.
`format` and the `content…` keywords are annotations: they tell the model something, and no answer is refused for them.
Patterns are those that an engine without backtracking can match: no look-around, no back-references.
"""

from typing import Final

MAX_FINDING_BYTES: Final = 500
"""How much of what is wrong with an answer its model is told, in bytes of UTF-8."""
