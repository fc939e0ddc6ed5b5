"""Asking a model again whose answer is not of the form that was asked for."""

from typing import Final

from sluice.domain.documents import Input, Message, Output, TextPart

# What is added to a conversation beside the model's own answer: repair_bytes() in the database reserves as much.
REPAIR_BYTES: Final = 1024
_FINDING_BYTES: Final = 512
_ASK: Final = "Your answer is not of the form that was asked for.\n{finding}\nAnswer again: only JSON of that form."
_CUT_OFF: Final = " It was cut off because it became too long: be brief."


def repaired_input(asked: Input, output: Output, finding: str, max_tokens: int) -> Input:
    """The conversation with the model's answer and what is wrong with it.

    Of the answer it has as many bytes as the answer may have tokens: no tokenizer makes more tokens than there are
    bytes, so that they are within the request's reservation.

    Args:
        asked: the conversation as the client sent it.
        finding: what is wrong.
        max_tokens: the longest that an answer may be.
    """
    told = cut(finding, _FINDING_BYTES) + (_CUT_OFF if output.finish_reason == "length" else "")
    answer = cut(output.answer_text, max_tokens)
    again = (
        *((Message(role="assistant", content=(TextPart(text=answer),)),) if answer else ()),
        Message(role="user", content=(TextPart(text=_ASK.format(finding=told)),)),
    )
    return asked.model_copy(update={"messages": (*asked.messages, *again)})


def cut(text: str, most_bytes: int) -> str:
    """The beginning of a text, in at most so many bytes of UTF-8."""
    return text.encode()[:most_bytes].decode(errors="ignore")
