"""JSON Schemas of the models, with what pydantic cannot know of them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, PlainValidator
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from openapi.answers import Answer
from sluice.api.native.reading import StatusQuery
from sluice.api.openai import chat, embeddings, files, responses
from sluice.domain.failures import FAILURES
from sluice.domain.fields import TIME_MAX_LENGTH, Day, Id, Time
from sluice.domain.history import MAX_PAGE, HistoryQuery
from sluice.domain.states import Status
from sluice.services.wait import LONGEST_SECONDS

Schema = dict[str, Any]
PREFIX: Final = "#/components/schemas/"
UNSUPPORTED: Final = "Not supported: only what asks for nothing is accepted."


def _validator(form: Any) -> Any:
    (found,) = [each.func for each in form.__metadata__ if isinstance(each, PlainValidator)]
    return found


def _of_field(model: type[BaseModel], name: str) -> Any:
    (found,) = [each.func for each in model.model_fields[name].metadata if isinstance(each, PlainValidator)]
    return found


# What functions of our own accept.
_FORMS: Final[dict[Any, Schema]] = {
    _validator(Time): {
        "type": "string",
        "format": "date-time",
        "maxLength": TIME_MAX_LENGTH,
        "description": "A time with a zone (RFC 3339).",
    },
    _validator(Day): {"type": "string", "format": "date", "description": "A day in UTC."},
    _validator(Id): {"type": "string", "format": "uuid"},
    _of_field(HistoryQuery, "limit"): {"type": "integer", "minimum": 1, "maximum": MAX_PAGE},
    _of_field(StatusQuery, "wait"): {"type": "integer", "minimum": 0, "maximum": LONGEST_SECONDS},
}
_STATUSES: Final = {
    "type": "array",
    "items": {"type": "string", "enum": [each.value for each in Status]},
    "minItems": 1,
}
# By model and field: what is added to what pydantic says.
_FIELDS: Final[dict[tuple[str, str], Schema]] = {
    ("GenerateRequest", "prompt"): {"description": "At most as many bytes of UTF-8 as the operator allows; no U+0000."},
    ("GenerateRequest", "model"): {"description": "A model or an alias; without it, the default model."},
    ("GenerateRequest", "ttl_seconds"): {
        "description": "How long it may wait to be started, from `not_before` where that is given."
    },
    ("GenerateRequest", "expires_at"): {"description": "Until when; not together with `ttl_seconds`."},
    ("GenerateRequest", "not_before"): {"description": "It waits until then."},
    ("GenerateRequest", "image"): {"description": "The answer is to be an image; `model` is one that draws."},
    ("GenerateRequest", "speech"): {"description": "The answer is to be the prompt read aloud; `model` speaks."},
    ("GenerateRequest", "metadata"): {"description": "Given back by `GET /status/{request_id}`."},
    ("HistoryQuery", "cursor"): {"description": "The `next_cursor` of the page before."},
    ("HistoryQuery", "error_code"): {
        "anyOf": [{"type": "string", "enum": list(FAILURES)}, {"type": "null"}],
        "description": "Those that failed or expired for this reason.",
    },
    ("HistoryQuery", "status"): {
        "anyOf": [_STATUSES, {"type": "null"}],
        "description": "One or several, with commas between them.",
    },
    ("HistoryQuery", "model"): {"description": "Those of this model."},
    ("HistoryQuery", "start"): {"description": "Accepted from this time on."},
    ("HistoryQuery", "end"): {"description": "Accepted before this time."},
    ("StatusQuery", "wait"): {"description": "For how many seconds to wait for its end."},
    ("UsageQuery", "start"): {"description": "The first day; by default the first of this month."},
    ("UsageQuery", "end"): {"description": "The last day, included; by default today."},
    ("UsageQuery", "by_key"): {"description": "Also the figures of each API key; not together with `by_tag`."},
    ("UsageQuery", "by_tag"): {"description": "Also the figures of each value of this member of the metadata."},
    ("InputImage", "file_id"): {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "An image among the caller's files; not together with `image_url`.",
    },
    ("RetrieveQuery", "starting_after"): {"description": "Only events with a higher sequence number.", "default": None},
    ("RetrieveQuery", "include_obfuscation"): {"description": "Nothing here depends on the length of an event."},
    ("PageQuery", "after"): {"description": "The id of the last item of the page before."},
}
_UNSUPPORTED: Final[dict[str, Mapping[str, tuple[Any, ...]]]] = {
    "ChatRequest": chat.UNSUPPORTED,
    "ResponseRequest": responses.UNSUPPORTED,
    "EmbeddingRequest": embeddings.UNSUPPORTED,
    "ImageRequest": files.IMAGES_UNSUPPORTED,
    "SpeechRequest": files.SPEECH_UNSUPPORTED,
}
# What becomes an ImageContent before the models see it.
_FILE_CONTENT: Final[Schema] = {
    "type": "object",
    "description": "An image among the caller's files.",
    "properties": {
        "type": {"const": "file", "type": "string"},
        "file": {
            "type": "object",
            "properties": {"file_id": {"type": "string"}},
            "required": ["file_id"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "file"],
    "additionalProperties": False,
}
_QUALIFIED: Final = re.compile(r"\w+__(?P<module>[a-z_]+?)__(?P<name>[A-Z]\w*)")


class _Generator(GenerateJsonSchema):
    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> Schema:
        function = schema["function"]["function"]
        return dict(_FORMS[function]) if function in _FORMS else super().function_plain_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schemas_of(models: Sequence[type[BaseModel]]) -> dict[str, Schema]:
    """The schemas of models and of the models that they are made of, by name; each model's own is under its name."""
    _, made = models_json_schema(
        [(model, "validation") for model in models],
        by_alias=True,
        ref_template=PREFIX + "{model}",
        schema_generator=_Generator,
    )
    text = _QUALIFIED.sub(lambda found: found["module"].title().replace("_", "") + found["name"], json.dumps(made))
    found: dict[str, Schema] = json.loads(text)["$defs"]
    answers = {each.__name__ for each in _subclasses(Answer)}
    for name, schema in found.items():
        schema.pop("title", None)
        if "description" in schema:
            schema["description"] = _one_line(schema["description"])
        for field, properties in schema.get("properties", {}).items():
            _complete(properties, _FIELDS.get((name, field), {}), is_answer=name in answers)
        _accept_what_asks_for_nothing(schema, _UNSUPPORTED.get(name, {}))
    # What their validators accept beside what their types say.
    parameters, generate = found["Parameters"]["properties"], found["GenerateRequest"]["properties"]
    parameters["stop"]["anyOf"].insert(0, dict(parameters["stop"]["anyOf"][0]["items"]))
    generate["model_id"] = generate["model"] | {"description": "Another name of `model`; not together with it."}
    found["FileContent"] = _FILE_CONTENT
    parts = found["UserMessage"]["properties"]["content"]["anyOf"][1]["items"]
    parts["oneOf"].append({"$ref": f"{PREFIX}FileContent"})
    parts["discriminator"]["mapping"]["file"] = f"{PREFIX}FileContent"
    return dict(sorted(found.items()))


def _complete(schema: Schema, more: Schema, *, is_answer: bool) -> None:
    if "anyOf" in more:
        schema.pop("type", None)
    schema |= more
    if schema.get("default", ...) is None or isinstance(schema.get("default"), dict) or is_answer:
        # Null stands for what is left out; an object's members have their own defaults.
        schema.pop("default", None)
    if "description" in schema:
        schema["description"] = _one_line(schema["description"])


def _accept_what_asks_for_nothing(schema: Schema, unsupported: Mapping[str, tuple[Any, ...]]) -> None:
    for name, harmless in unsupported.items():
        values = [*harmless, None]
        schema["properties"].setdefault(name, {"enum": values, "description": UNSUPPORTED})


def _one_line(text: str) -> str:
    """The first paragraph of a docstring."""
    return re.sub(r"\s+", " ", re.split(r"\n\s*\n", text.strip())[0])


def _subclasses(model: type[BaseModel]) -> set[type[BaseModel]]:
    return {found for each in model.__subclasses__() for found in (each, *_subclasses(each))}
