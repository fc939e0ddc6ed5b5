"""The form that an answer must have: JSON, and JSON that fits a schema."""

from collections.abc import Callable
from functools import cache

from sluice.domain.documents import Output, ResponseFormat
from sluice.structured.validator import Fault, Validator, answer_text

CheckForm = Callable[[ResponseFormat, Output], tuple[Output, Fault | None]]
"""Returns an answer as it is kept, and what is wrong with it; None: it has the form."""


@cache
def _validator() -> Validator:
    # One for the environment, whose process lives as long.
    return Validator()


def check_form(form: ResponseFormat, output: Output) -> tuple[Output, Fault | None]:
    """Look at an answer whose form was asked for."""
    text = answer_text(output.answer_text)
    fault = _validator().find_fault(form.schema_text, text)
    return (output, fault) if fault else (output.of_json(text), None)
