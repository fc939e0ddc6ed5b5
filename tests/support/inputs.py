"""Inputs of every form, for property tests."""

from typing import TypeVar

from hypothesis import strategies as st

from sluice.domain.documents import (
    ImageOptions,
    ImagePart,
    Input,
    Message,
    NamedTool,
    RefusalPart,
    ResponseFormat,
    SpeechOptions,
    TextPart,
    TokensPart,
    Tool,
    ToolCall,
)

T = TypeVar("T")

# What JSONB can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
_MAYBE = st.none() | TEXT


def _up_to(count: int, each: st.SearchStrategy[T], least: int = 0) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(each, min_size=least, max_size=count).map(tuple)


_PARTS = st.one_of(
    st.builds(TextPart, text=TEXT),
    st.builds(RefusalPart, type=st.just("refusal"), text=TEXT),
    st.builds(ImagePart, type=st.just("image"), url=TEXT, detail=st.none() | st.sampled_from(["auto", "low", "high"])),
    st.builds(TokensPart, type=st.just("tokens"), tokens=_up_to(5, st.integers(0, 200_000))),
)
_MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=_up_to(3, _PARTS),
    tool_calls=st.none() | _up_to(2, st.builds(ToolCall, id=TEXT, name=TEXT, arguments=TEXT)),
    tool_call_id=_MAYBE,
    name=_MAYBE,
)
INPUTS = st.builds(
    Input,
    messages=_up_to(3, _MESSAGES, least=1),
    instructions=_MAYBE,
    tools=st.none() | _up_to(2, st.builds(Tool, name=TEXT, description=_MAYBE, parameters=_MAYBE)),
    tool_choice=st.none() | st.sampled_from(["none", "auto", "required"]) | st.builds(NamedTool, name=TEXT),
    parallel_tool_calls=st.none() | st.booleans(),
    response_format=st.none()
    | st.builds(
        ResponseFormat,
        type=st.sampled_from(["json_object", "json_schema"]),
        name=_MAYBE,
        description=_MAYBE,
        schema_text=_MAYBE,
    ),
    dimensions=st.none() | st.integers(1, 4096),
    image=st.none() | st.builds(ImageOptions, size=_MAYBE, output_format=_MAYBE),
    speech=st.none() | st.builds(SpeechOptions, voice=TEXT, instructions=_MAYBE),
)
