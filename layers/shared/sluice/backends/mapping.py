"""How a server with a form of its own is asked and read: a model's mapping, as its row has it.

`request` is the JSON body, in which a text that is one placeholder, such as "{{prompt}}", stands for a value of the
request. `response` has a JMESPath expression for each thing that is read from the answer. Beside them there may be the
target within an endpoint, by the names in TARGETS; a mapping may also have only that.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sluice.backends.answers import Answer, booked, completion, failed_call
from sluice.backends.openai_requests import chat_messages, embeddings_body
from sluice.backends.parts import UnreadableError
from sluice.backends.protocol import ModelError
from sluice.backends.tokens import TokenReport, count
from sluice.backends.upstream import error_inside, read_json, reported_failure
from sluice.backends.vectors import read_vectors
from sluice.domain.documents import Input, Message, TextPart
from sluice.domain.requests import Claim, Completion

PLACEHOLDER: Final = re.compile(r"\{\{([a-z_]+)\}\}")
PARAMETERS: Final = (
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "reasoning_effort",
)
"""The sampling parameters: left out where a request does not give them, or a template has no place for them."""
CHAT_PLACEHOLDERS: Final = ("prompt", "messages", "instructions", *PARAMETERS)
EMBEDDING_PLACEHOLDERS: Final = ("texts", "dimensions")
TARGETS: Final = ("target_variant", "target_model", "target_container", "inference_component")
"""What within an endpoint is to answer; see the parameters of InvokeEndpoint."""

# What reading an answer by an expression raises where the answer is of another form than the expression expects.
_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_ABSENT: Final = object()


# Asking ---------------------------------------------------------------------------------------------------------------


def placeholders(template: Any) -> Iterator[str]:
    """The names of the placeholders in a template."""
    if isinstance(template, str):
        if found := PLACEHOLDER.fullmatch(template):
            yield found[1]
    elif isinstance(template, dict | list):
        for member in template.values() if isinstance(template, dict) else template:
            yield from placeholders(member)


def mapped_body(template: Any, claim: Claim) -> Any:
    """The template with the request's values in the place of its placeholders.

    A placeholder without a value is left out, with its name where it is a member of an object; an object that becomes
    empty by that stays. Values are not looked through for placeholders: what a client writes is always data.

    Raises:
        ModelError: model_rejected, the template has no place for what is asked. Only sampling parameters may be lost.
    """
    places = frozenset(placeholders(template))
    values = _embedded(claim, places) if claim.kind == "embedding" else _asked(claim.input, places)
    given = {name: claim.parameters[name] for name in PARAMETERS if claim.parameters.get(name) is not None}
    return _filled(template, given | values)


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(template, str):
        found = PLACEHOLDER.fullmatch(template)
        return values.get(found[1], _ABSENT) if found else template
    if isinstance(template, dict):
        members = ((name, _filled(member, values)) for name, member in template.items())
        return {name: value for name, value in members if value is not _ABSENT}
    if isinstance(template, list):
        return [value for member in template if (value := _filled(member, values)) is not _ABSENT]
    return template


def _asked(asked: Input, places: frozenset[str]) -> dict[str, Any]:
    """What a conversation says, by placeholder."""
    if asked.tools or asked.response_format or not places & {"prompt", "messages"}:
        raise ModelError("model_rejected")
    values: dict[str, Any] = {}
    told = [message for message in asked.messages if message.role == "system"]
    spoken = [message for message in asked.messages if message.role != "system"]
    texts = [*([asked.instructions] if asked.instructions is not None else []), *map(_text, told)]
    if "instructions" in places:
        if texts:
            values["instructions"] = "\n\n".join(texts)
        asked = asked.model_copy(update={"instructions": None, "messages": tuple(spoken)})
    elif texts and "messages" not in places:
        raise ModelError("model_rejected")
    if "prompt" in places:
        if [message.role for message in spoken] != ["user"]:
            raise ModelError("model_rejected")
        values["prompt"] = _text(spoken[0])
    if "messages" in places:
        values["messages"] = chat_messages(asked)
    return values


def _text(message: Message) -> str:
    if not all(isinstance(part, TextPart) for part in message.content):
        raise ModelError("model_rejected")
    return message.text


def _embedded(claim: Claim, places: frozenset[str]) -> dict[str, Any]:
    """What is to be embedded, by placeholder."""
    body = embeddings_body(claim)
    texts, dimensions = body["input"], body.get("dimensions")
    if not all(isinstance(text, str) for text in texts) or "texts" not in places:
        raise ModelError("model_rejected")
    if dimensions is None:
        return {"texts": texts}
    if "dimensions" not in places:
        # Vectors of another length would be of no use to whoever asked for this one.
        raise ModelError("model_rejected")
    return {"texts": texts, "dimensions": dimensions}


# Reading --------------------------------------------------------------------------------------------------------------


def read_mapped(expressions: Mapping[str, str], claim: Claim, headers: Mapping[str, str], payload: bytes) -> Completion:
    """The completion, or the vectors, in the body of a successful answer.

    Args:
        expressions: JMESPath by what it finds.
        headers: those of the answer; an error inside it may say there how long to wait.

    Raises:
        ModelError: model_bad_response, the expressions do not find an answer; model_usage_missing, nor token counts;
            or what an error inside the body means.
    """
    document = read_json(payload)
    if document is None:
        raise ModelError("model_bad_response")

    def found(name: str) -> Any:
        return _search(expressions[name], document) if name in expressions else None

    report = TokenReport(prompt=count(found("prompt_tokens")), completion=count(found("completion_tokens")))
    if claim.kind == "embedding":
        # There are none to report.
        report = TokenReport(prompt=report.prompt, completion=report.completion or 0)
        vectors = found("vectors")
        if isinstance(vectors, list):
            try:
                output = read_vectors({"data": [{"embedding": each} for each in vectors]}, len(claim.input.messages))
            except UnreadableError:
                pass
            else:
                return booked(claim, output, 0, report)
    elif isinstance(text := found("text"), str):
        return completion(claim, Answer(text), found("finish_reason"), report)
    if (error := error_inside(document)) is not None:
        raise failed_call(reported_failure(error[0], headers, error[1]), claim, report)
    raise failed_call(ModelError("model_bad_response", is_answer=True), claim, report)


def _search(expression: str, document: Any) -> Any:
    """What the expression finds; None: nothing, or the document is of another form than it expects."""
    # Only models with a mapping need it. Its errors are ValueErrors.
    import jmespath

    try:
        return jmespath.search(expression, document)
    except _UNREADABLE:
        return None
