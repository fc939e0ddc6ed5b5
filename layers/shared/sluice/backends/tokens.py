"""What a model reported about its tokens, and what is booked for it."""

import math
from dataclasses import dataclass, replace
from typing import Any, Final

from sluice.domain.requests import Claim, UsageDoubt, UsageFlag

# More than any chat template adds beyond overhead_tokens, or any model writes beyond max_tokens.
ALLOWANCE_TOKENS: Final = 8192
# For a rough estimate only: English text has about four bytes a token.
_BYTES_PER_TOKEN: Final = 4
# What is larger is audited as this: the audit log needs no number of a thousand digits.
_LARGEST: Final = 10**18


@dataclass(frozen=True)
class TokenReport:
    """A model's report: None is missing or unreadable.

    Attributes:
        total: prompt and completion; some servers count there what they leave out elsewhere.
        reasoning: for reasoning; inside completion at OpenAI, beside it at others.
        cached: of the prompt from a cache; inside prompt at OpenAI, beside it at others.
    """

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    reasoning: int | None = None
    cached: int | None = None


@dataclass(frozen=True)
class TokenCounts:
    """The tokens to be booked.

    Attributes:
        doubt: why they are not what was reported, or what else was wrong with the report.
        cached: those of the prompt that came from a cache; 0: none, unknown, or the report was not believed.
        reasoning: those of the completion that were reasoning; 0 likewise.
    """

    prompt: int
    completion: int
    doubt: UsageDoubt | None = None
    cached: int = 0
    reasoning: int = 0


def count(value: Any) -> int | None:
    """A whole number from 0, also as 21.0 or "21"; None for anything else. A bool is an int to Python."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value) if len(value) <= len(str(_LARGEST)) else _LARGEST
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return min(value, _LARGEST)


def counted(report: TokenReport, claim: Claim, answer_bytes: int | None) -> TokenCounts | None:
    """What is booked for a call: what the model reported, as long as that can be true.

    A part that is missing is what the total leaves for it. What the total has beyond the sum of the parts is counted
    too: servers that report reasoning or cached tokens beside the others do charge for them. No tokens at all for a
    text that is there are replaced by an estimate, and more than can be true by the share of the request's reservation.
    A model of embeddings writes nothing: all of its tokens are the prompt's. An image never counts more than the
    operator lets one count.

    Args:
        answer_bytes: length of all that the model wrote, reasoning included, in bytes of UTF-8; None: there is no
            answer, and nothing is estimated.

    Returns:
        None if the report does not say how many tokens there were.
    """
    whole = _completed(report)
    if whole is None:
        return None
    input_bytes, max_tokens = claim.input.byte_length, claim.parameters.get("max_tokens", answer_bytes or 0)
    prompt_share = claim.prompt_tokens_most
    most_prompt = prompt_share + ALLOWANCE_TOKENS
    # Models do not write much beyond max_tokens. Nobody tells one that draws how much an image may count.
    most_completion = max_tokens if claim.kind == "image" else max(max_tokens, answer_bytes or 0) + ALLOWANCE_TOKENS
    flag: UsageFlag | None = (
        None if whole == (report.prompt, report.completion) and _adds_up(report) else "inconsistent"
    )
    prompt, completion = whole
    if claim.kind == "embedding" and completion:
        prompt, completion, flag = prompt + completion, 0, "inconsistent"
    if report.prompt is not None and report.completion is not None:
        # Parts that are plausible count more than a total that is not.
        if prompt > most_prompt >= report.prompt:
            prompt, flag = report.prompt, "implausible"
        if completion > most_completion >= report.completion:
            completion, flag = report.completion, "implausible"
    if answer_bytes is not None and prompt == 0 and input_bytes:
        prompt, flag = min(_estimate(input_bytes), prompt_share), flag if flag == "implausible" else "estimated"
    if answer_bytes and completion == 0:
        completion = max(1, min(_estimate(answer_bytes), max_tokens))
        flag = flag if flag == "implausible" else "estimated"
    if claim.kind == "image" and answer_bytes is not None and completion == 0:
        completion, flag = _image_tokens(claim), flag if flag == "implausible" else "estimated"
    if prompt > most_prompt:
        prompt, flag = prompt_share, "implausible"
    if completion > most_completion:
        completion, flag = max_tokens, "implausible"
    doubt = UsageDoubt(flag, report.prompt, report.completion) if flag else None
    if flag == "implausible":
        return TokenCounts(prompt, completion, doubt)
    return TokenCounts(
        prompt, completion, doubt, min(report.cached or 0, prompt), min(report.reasoning or 0, completion)
    )


def image_report(report: TokenReport, claim: Claim) -> TokenReport:
    """What a model that draws reported. A count that it did not report is for the image what the operator has set, and
    for the prompt an estimate."""
    if _completed(report) is not None:
        return report
    estimated = min(_estimate(claim.input.byte_length), claim.prompt_tokens_most)
    return TokenReport(
        prompt=estimated if report.prompt is None else report.prompt,
        completion=_image_tokens(claim) if report.completion is None else report.completion,
    )


def speech_report(claim: Claim) -> TokenReport:
    """What a model that speaks would report, if its API had reports: the characters of the text."""
    return TokenReport(prompt=len(claim.input.single_text or ""), completion=0)


def _image_tokens(claim: Claim) -> int:
    # The operator may have set less as the most since then.
    return min(claim.max_tokens_default, int(claim.parameters.get("max_tokens", 0)))


def _estimate(length: int) -> int:
    return math.ceil(length / _BYTES_PER_TOKEN)


def _adds_up(report: TokenReport) -> bool:
    prompt, completion = report.prompt or 0, report.completion or 0
    return (
        report.total in (None, prompt + completion)
        and (report.reasoning or 0) <= completion
        and (report.cached or 0) <= prompt
    )


def _completed(report: TokenReport) -> tuple[int, int] | None:
    """Prompt and completion tokens with what the report has only in its total or its details."""
    prompt, completion, total = report.prompt, report.completion, report.total
    if prompt is None and completion is not None and total is not None and total >= completion:
        prompt = total - completion
    elif completion is None and prompt is not None and total is not None and total >= prompt:
        completion = total - prompt
    if prompt is None or completion is None:
        return None
    cached, reasoning = report.cached or 0, report.reasoning or 0
    missing = (total or 0) - prompt - completion
    # The cached part of the prompt is beside it if it is larger than the whole, or is what the total has more.
    if cached and (cached > prompt or missing in (cached, cached + reasoning)):
        prompt, missing = prompt + cached, missing - cached
    beside = reasoning if reasoning > completion else 0
    return prompt, completion + max(missing, beside, 0)


def with_cache(report: TokenReport, read: int | None, written: int | None) -> TokenReport:
    """The report with tokens read from and written to a cache that its server counts beside the prompt, and may leave
    out of the total."""
    extra = (read or 0) + (written or 0)
    if not extra or report.prompt is None:
        return report
    bare = None if report.completion is None else report.prompt + report.completion
    total = report.total + extra if report.total is not None and report.total == bare else report.total
    return replace(report, prompt=report.prompt + extra, total=total, cached=read)
