"""Accepting a request: one call of the database, then its message. The database decides whether it is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from sluice.db.ledger import Ledger
from sluice.domain.errors import SluiceError
from sluice.domain.requests import Admission, ModelKind, QuotaCounter, RequestLimits, Submission
from sluice.domain.states import Status
from sluice.messaging import Message, Sender
from sluice.services.access import refuse_unless_allowed
from sluice.services.dispatch import send_or_undispatch
from sluice.services.inputs import InputKeeper

_DOES: Final[Mapping[ModelKind, str]] = {
    "chat": "answers conversations",
    "embedding": "embeds texts",
    "image": "draws images",
    "speech": "reads texts aloud",
}
MAX_IMAGES_BYTES: Final = 5_500_000
"""Of all images of a conversation, in base64: with the rest of it, less than the 6 MB that Lambda takes and gives.
A body cannot have more, but a conversation that is continued could."""


@dataclass(frozen=True)
class Accepted:
    """What became of a submission.

    Attributes:
        replayed: an idempotency key was seen before; the id is the first request's.
        quotas: the state of the user's quota by period, where it was looked at.
        status: its present one; of a replay it may be final.
        model_id: the model that is to answer; None of a replay.
        cache: what the answer cache said, and the age of its answer; None: nobody asked it.
    """

    request_id: UUID
    user_id: str
    replayed: bool
    quotas: Sequence[QuotaCounter]
    status: Status = Status.QUEUED
    model_id: str | None = None
    cache: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Submitter:
    """Accepts requests.

    Attributes:
        inputs: keeps large ones; None: the database keeps all.
    """

    ledger: Ledger
    queue: Sender
    limits: RequestLimits
    inputs: InputKeeper | None = None

    def submit(self, key_hash: bytes, submission: Submission) -> Accepted:
        """Accept a request and send its message.

        If the message cannot be sent the request is accepted all the same: the recovery task sends it.

        Raises:
            SluiceError: it was refused, and nothing was written; or database_unavailable.
        """
        check_submission(submission, self.limits)
        stored = self.inputs.keep(self.ledger, key_hash, submission, self.limits) if self.inputs else None
        admission = self.ledger.submit(key_hash, submission, self.limits, stored)
        accepted = accepted_or_refused(admission, submission)
        messages = [Message(next_id, accepted.user_id) for next_id in admission.send]
        send_or_undispatch(self.ledger, self.queue, messages)
        return accepted


def check_submission(submission: Submission, limits: RequestLimits) -> None:
    """Refuse what is too large, or asks for an impossible form of answer, before the database sees it.

    Raises:
        SluiceError: prompt_too_long, schema_refused; invalid_input: the webhook.
    """
    if submission.webhook is not None:
        check_webhook_url(submission.webhook, "webhook", loopback=limits.webhook_loopback)
    size, limit = submission.input.byte_length, limits.max_prompt_bytes
    if size > limit:
        raise SluiceError(
            "prompt_too_long",
            f"The prompt is {size} bytes long in UTF-8; at most {limit} are accepted.",
            max_prompt_bytes=limit,
        )
    if (images := submission.input.image_bytes) > MAX_IMAGES_BYTES:
        raise SluiceError(
            "prompt_too_long",
            f"The images of this conversation have {images} bytes in base64; at most {MAX_IMAGES_BYTES} are accepted.",
        )
    form = submission.input.response_format
    if form is not None and form.schema_text is not None:
        _check_schema(form.schema_text, str((submission.surface or {}).get("api")))


def check_webhook_url(url: str, param: str, *, loopback: bool) -> None:
    """Refuse an URL to which webhooks cannot be sent.

    Raises:
        SluiceError: invalid_input.
    """
    from sluice.domain.webhooks import check_url  # noqa: PLC0415  (few have webhooks)

    try:
        check_url(url, loopback=loopback)
    except ValueError as error:
        raise SluiceError("invalid_input", f"Invalid value for {param!r}: {error}.", param=param) from None


# By API, the parameter that holds the schema.
_SCHEMA_PARAMETERS: Final = {"chat": "response_format", "responses": "text.format"}


def _check_schema(schema: str, api: str) -> None:
    from sluice.structured.rules import SchemaRefusedError, check_schema  # noqa: PLC0415  (most ask for no form)

    try:
        check_schema(schema)
    except SchemaRefusedError as error:
        named: dict[str, Any] = {"param": _SCHEMA_PARAMETERS[api]} if api in _SCHEMA_PARAMETERS else {}
        raise SluiceError("schema_refused", error.reason, **named) from None


def accepted_or_refused(admission: Admission, submission: Submission) -> Accepted:
    """What the database made of a submission, for its client.

    Raises:
        SluiceError: it was refused.
    """
    detail = admission.detail or {}
    quotas = [QuotaCounter(**counter) for counter in detail.get("quotas", ())]
    if admission.outcome not in ("accepted", "replayed"):
        raise refusal(admission.outcome, submission, detail, quotas)
    # An accepted request has both.
    request_id, user_id = UUID(str(admission.request_id)), str(admission.user_id)
    status = Status(detail.get("status", Status.QUEUED))
    replayed = admission.outcome == "replayed"
    return Accepted(request_id, user_id, replayed, quotas, status, admission.model_id, detail.get("cache"))


def refusal(
    outcome: str, submission: Submission, detail: Mapping[str, Any], quotas: Sequence[QuotaCounter]
) -> SluiceError:
    """The error that a refused submission is answered with."""
    refuse_unless_allowed(outcome)
    # Of a fallback that the client named.
    model = detail.get("model", submission.model)
    match outcome:
        case "model_unknown":
            return SluiceError(outcome, f"There is no model {model!r}. GET /models lists those there are.")
        case "model_not_allowed":
            named = "The default model" if model is None else f"The model {model!r}"
            return SluiceError(
                outcome, f"{named} is not among those that this API key may be used for. GET /models lists them."
            )
        case "model_kind_differs" if "model" in detail:
            return SluiceError(
                outcome,
                f"The model {model!r} cannot answer in place of the other. Only models that answer conversations can.",
            )
        case "model_missing":
            return SluiceError(outcome, "No default model is set: name one. GET /models lists those there are.")
        case "model_kind_differs":
            return SluiceError(
                outcome, f"This model only {_DOES[detail['kind']]}. GET /models says what each model does."
            )
        case "images_not_taken":
            return SluiceError(outcome, "This model takes no images. Send text only, or name a model that does.")
        case "prompt_too_long":
            return SluiceError(
                outcome,
                f"The request needs up to {detail['tokens_needed']} tokens, which is more than can be counted. Send "
                "fewer messages, or lower max_tokens.",
                tokens_needed=detail["tokens_needed"],
            )
        case "max_tokens_exceeded":
            limit = detail["max_tokens_limit"]
            return SluiceError(outcome, f"This model writes at most {limit} tokens.", max_tokens_limit=limit)
        case "max_cost_exceeded":
            return SluiceError(
                outcome,
                f"The request may cost {detail['amount_needed']} {detail['currency']}, which is more than max_cost. "
                "Lower max_tokens, or raise max_cost.",
                amount_needed=detail["amount_needed"],
                currency=detail["currency"],
            )
        case "lifetime_invalid":
            return _lifetime_refusal(outcome, detail)
        case "idempotency_conflict":
            return SluiceError(outcome, "This Idempotency-Key was used with another body. Use a new key.")
        case "quota_too_small" if detail["max_requests"] == 0:
            return SluiceError(
                outcome, f"The {detail['period']} quota allows no requests at all.", period=detail["period"]
            )
        case "quota_too_small":
            return SluiceError(
                outcome,
                f"The request needs up to {detail['tokens_needed']} tokens; the {detail['period']} quota could never "
                "hold it. Shorten the prompt or lower max_tokens.",
                tokens_needed=detail["tokens_needed"],
                period=detail["period"],
            )
        case "quota_exceeded":
            return _quota_refusal(detail, quotas)
        case "model_unpriced":
            return SluiceError(
                outcome,
                f"The model has no price in the price list {detail['price_list']!r}, so its cost cannot be limited. "
                "Name another model, or ask the operator of this service to set the price.",
            )
        case "budget_currency_differs":
            return SluiceError(
                outcome,
                f"Your budget is in {detail['currency']}, and your price list in another currency. Ask the operator of "
                "this service to set the budget again.",
            )
        case "budget_too_small":
            return SluiceError(
                outcome,
                f"The request may cost up to {detail['amount_needed']} {detail['currency']}; the {detail['period']} "
                f"budget of {detail['maximum']} could never hold it. Shorten the prompt or lower max_tokens.",
                period=detail["period"],
                amount_needed=detail["amount_needed"],
            )
        case "budget_exceeded":
            return _budget_refusal(detail, quotas)
        case "unfinished_exceeded":
            return SluiceError(
                outcome,
                f"{detail['max_unfinished']} of your requests are unfinished, the most there may be. Wait for some.",
                retry_after=int(detail["retry_after"]),
                quotas=quotas,
            )
    raise AssertionError(f"request_submit answered {outcome}")


def _quota_refusal(detail: Mapping[str, Any], quotas: Sequence[QuotaCounter]) -> SluiceError:
    """What is used up comes back with the reset; what unfinished requests have reserved, when they end."""
    period, unit, wait = detail["period"], detail["kind"], int(detail["retry_after"])
    in_the_way = next(counter for counter in quotas if counter.period == period)
    counters = [in_the_way]
    if detail["code"] == "quota_reserved":
        text = (
            f"Your unfinished requests have reserved {detail['reserved']} of the {detail['maximum']} tokens of the "
            f"{period} quota; {detail['used']} are used, and this request needs up to {detail['tokens_needed']}. "
            f"{_likely_to_end(wait)}"
        )
        # Requests are not what is reserved: they come back with the reset.
        counters = [replace(in_the_way, max_requests=None, reset_seconds=wait), replace(in_the_way, max_tokens=None)]
    else:
        needed = f", and this request needs up to {detail['tokens_needed']}" if unit == "tokens" else ""
        text = (
            f"The {period} quota is used up: {detail['used']} of {detail['maximum']} {unit} are used{needed}. "
            f"It resets in {wait} s."
        )
    return SluiceError(
        detail["code"],
        text,
        retry_after=wait,
        quotas=counters,
        period=period,
        limit=unit,
        maximum=detail["maximum"],
        used=detail["used"],
        reserved=detail["reserved"],
        tokens_needed=detail["tokens_needed"],
    )


def _likely_to_end(wait: int) -> str:
    return f"In {wait} s some of them are likely to have ended, or the period is over: try again then."


def _budget_refusal(detail: Mapping[str, Any], quotas: Sequence[QuotaCounter]) -> SluiceError:
    period, currency, wait = detail["period"], detail["currency"], int(detail["retry_after"])
    maximum, used, reserved = detail["maximum"], detail["used"], detail["reserved"]
    needed = f"this request may cost up to {detail['amount_needed']}"
    if detail["code"] == "budget_reserved":
        text = (
            f"Your unfinished requests have reserved {reserved} of the {maximum} {currency} of the {period} budget; "
            f"{used} are used, and {needed}. {_likely_to_end(wait)}"
        )
    else:
        text = (
            f"The {period} budget is used up: {used} of {maximum} {currency} are used, and {needed}. "
            f"It resets in {wait} s."
        )
    return SluiceError(
        detail["code"],
        text,
        retry_after=wait,
        quotas=quotas,
        period=period,
        currency=currency,
        maximum=maximum,
        used=used,
        reserved=reserved,
        amount_needed=detail["amount_needed"],
    )


def _lifetime_refusal(outcome: str, detail: Mapping[str, Any]) -> SluiceError:
    longest = detail["longest_seconds"]
    text = {
        "begins_late": f"not_before may be at most {longest} s ahead.",
        "ends_past": "expires_at must be in the future.",
        "ends_early": "expires_at must be after not_before.",
        "ends_late": f"A request may wait to be started for {longest} s at most, from not_before where that is given.",
    }[detail["why"]]
    return SluiceError(outcome, text, longest_seconds=longest)
