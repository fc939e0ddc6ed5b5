"""Parts of bodies that several of OpenAI's routes share, and how they become documents."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from sluice.api.openai.errors import invalid
from sluice.domain.documents import ImagePart, Message, NamedTool, ResponseFormat, Tool, ToolChoice, schema_text
from sluice.domain.fields import Storable, Strict, Text
from sluice.domain.uploads import MAX_IMAGE_BYTES

IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
MAX_TOOLS: Final = 128
"""As OpenAI's API has it."""

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256), Storable]
Label = Annotated[str, Field(max_length=512), Storable]
"""What a client gives us to keep, and gets back as it was."""
Penalty = Annotated[float, Field(ge=-2, le=2)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    # A reference elsewhere would have somebody fetch it.
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise ValueError("has a $ref that leads elsewhere; only references within the schema (#...) are allowed")
    return schema


def _references(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in _references(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in _references(inner)]
    return []


JsonSchema = Annotated[dict[str, Any], AfterValidator(_object_schema)]


class FunctionDefinition(Strict):
    """A function that the model may call."""

    name: FunctionName
    description: Text | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """As a document."""
        return Tool(
            name=self.name,
            description=self.description,
            parameters=schema_text(self.parameters),
            strict=self.strict,
        )


class JsonSchemaFormat(Strict):
    """The schema of an answer."""

    name: FunctionName
    description: Text | None = None
    schema_: Annotated[JsonSchema | None, Field(alias="schema")] = None
    strict: bool | None = None

    def response_format(self) -> ResponseFormat:
        """As a document."""
        return ResponseFormat(
            type="json_schema",
            name=self.name,
            description=self.description,
            schema_text=schema_text(self.schema_),
            strict=self.strict,
        )


def tools_of(tools: Sequence[Tool] | None, param: str) -> tuple[Tool, ...] | None:
    """The tools of a request, if there are any.

    Raises:
        SluiceError: invalid_input.
    """
    if not tools:
        return None
    if len(tools) > MAX_TOOLS:
        raise invalid(
            f"At most {MAX_TOOLS} tools are allowed; there are {len(tools)}.", param, "array_above_max_length"
        )
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise invalid("Two tools have the same name.", param)
    return tuple(tools)


def check_choice(choice: ToolChoice | None, tools: Sequence[Tool] | None) -> None:
    """Refuse a choice of tools that are not there.

    Raises:
        SluiceError: invalid_input.
    """
    if isinstance(choice, NamedTool) and choice.name not in {tool.name for tool in tools or ()}:
        raise invalid("The function that tool_choice names is not among the tools.", "tool_choice")
    if choice == "required" and not tools:
        raise invalid("tool_choice is 'required', and there are no tools.", "tool_choice")


def image_part(url: str, detail: Literal["auto", "low", "high"] | None, param: str) -> ImagePart:
    """An image, by its https URL or as a data URL.

    Raises:
        SluiceError: invalid_input.
    """
    part = ImagePart(type="image", url=url, detail=detail)
    if url.startswith("data:"):
        image = part.inline
        if image is None or image[0] not in IMAGE_TYPES:
            raise invalid(
                f"A data URL must be data:TYPE;base64,DATA with a TYPE of {', '.join(IMAGE_TYPES)}.",
                param,
                "invalid_image_url",
            )
        if len(image[1]) > MAX_IMAGE_BYTES:
            raise invalid(f"An image may have {MAX_IMAGE_BYTES} bytes at most.", param, "image_too_large")
        return part
    try:
        is_https = urlsplit(url).scheme == "https" and bool(urlsplit(url).hostname)
    except ValueError:
        is_https = False
    if not is_https or len(url) > 2048 or not url.isprintable() or " " in url:
        raise invalid(
            "An image is given as an https URL of at most 2048 characters, or as a data URL.",
            param,
            "invalid_image_url",
        )
    return part


def check_tool_results(messages: Sequence[Message], place: str) -> None:
    """Refuse a conversation in which calls of tools and their results do not match: models' templates need both.

    Args:
        place: the parameter that holds the messages.

    Raises:
        SluiceError: invalid_input.
    """
    open_calls: list[str] = []
    for message in messages:
        if message.role == "tool":
            if message.tool_call_id not in open_calls:
                raise invalid(
                    f"No tool call found for the tool result with call_id {str(message.tool_call_id)[:64]!r}.", place
                )
            open_calls.remove(message.tool_call_id)
            continue
        if open_calls:
            break
        open_calls = [call.id for call in message.tool_calls or ()]
        if len(set(open_calls)) < len(open_calls):
            raise invalid("Two tool calls have the same id.", place)
    if open_calls:
        raise invalid(
            f"No tool result found for the tool call {open_calls[0][:64]!r}: each call must be followed by its result.",
            place,
        )
