"""Refusals of the database, as errors: constraints of the schema, and the codes that its functions refuse with."""

from typing import Final

from sluice.domain.errors import SluiceError
from sluice.domain.vocabulary import PERIODS

_PERIODS: Final = f"{', '.join(PERIODS[:-1])} and {PERIODS[-1]}"

REFUSALS: Final = {
    "users_pkey": ("user_exists", "A user with this id exists."),
    "users_email_key": ("email_taken", "Another user has this e-mail address."),
    "user_not_found": ("user_not_found", "There is no user with this id."),
    "key_not_found": ("key_not_found", "There is no key with this id."),
    "key_dead": ("key_dead", "The key is revoked or expired and cannot be reactivated. Create a new one."),
    "expiry_in_past": ("expiry_in_past", "expires_at must be in the future. To end a key now, revoke it."),
    "tier_unknown": ("tier_unknown", "There is no tier of this name."),
    "quota_plans_tier_known": ("tier_unknown", "There is no tier of this name."),
    "limits_missing": ("limits_missing", f"A new tier needs limits for {_PERIODS}; null is unlimited."),
    "tiers_price_list_known": ("price_list_unknown", "There is no price list of this name: set a price in it first."),
    "price_list_unknown": ("price_list_unknown", "There is no price list of this name: set a price in it first."),
    "model_unknown": ("model_unknown", "There is no model of this name, or it is no longer offered."),
    "fallback_unfit": (
        "fallback_unfit",
        "A fallback must be another model, and both must answer conversations: vectors of two models do not compare.",
    ),
    "model_incomplete": ("invalid_input", "A new model needs backend, backend_model and, for openai, endpoint."),
    "models_openai_has_endpoint": ("invalid_input", "A model of the openai backend needs an endpoint."),
    "models_max_tokens_in_order": ("invalid_input", "max_tokens_default must not exceed max_tokens_limit."),
    "models_default_is_active": ("invalid_input", "The default model must be active."),
    "models_files_by_openai": (
        "invalid_input",
        "Only a model of the openai backend can be of the kind image or speech.",
    ),
    "models_bedrock_only_chats": ("invalid_input", "A model of the bedrock backend can only be of the kind chat."),
    "models_mapping_of_sagemaker": (
        "invalid_input",
        "Only a model of the sagemaker backend has a mapping: null removes it.",
    ),
    "models_mapping_fits_kind": (
        "invalid_input",
        "The mapping is of the other kind: response.text is for chat, response.vectors for embedding.",
    ),
    "models_sagemaker_has_no_address": (
        "invalid_input",
        "A model of the sagemaker backend has neither endpoint nor secret_arn: backend_model names the endpoint.",
    ),
    "models_sagemaker_names_endpoint": (
        "invalid_input",
        "backend_model must be the name of a SageMaker endpoint: at most 63 letters, digits, and hyphens between them.",
    ),
    "models_default_chats": ("invalid_input", "The default model must be of the kind chat."),
    "model_kind_fixed": ("model_kind_fixed", "A model keeps the kind that it was made with. Make another model."),
    "name_taken": ("name_taken", "This name is taken: no model and alias have the same one."),
    "alias_unknown": ("alias_unknown", "There is no alias of this name."),
    "default_model_needed": (
        "default_model_needed",
        "Requests that name no model would be refused: make another model the default, or repeat this with force.",
    ),
    "request_not_found": ("request_not_found", "There is no request with this id."),
    "request_finished": ("request_finished", "The request has ended and cannot be cancelled."),
    "request_not_failed": ("request_not_failed", "Only a request that failed can be queued again."),
    "request_archived": ("request_archived", "The request's month is in the archive: nothing there changes."),
    "request_erased": ("request_erased", "The request's content was erased: there is nothing to ask again."),
    "user_inactive": ("user_inactive", "The request's user is deactivated."),
    "batch_not_found": ("batch_not_found", "There is no batch with this id."),
    "batch_finished": ("batch_finished", "The batch has ended."),
    "webhook_endpoint_not_found": ("webhook_endpoint_not_found", "There is no webhook endpoint with this id."),
    "webhook_event_not_found": ("webhook_event_not_found", "There is no webhook event with this id."),
    "webhook_endpoint_disabled": ("webhook_endpoint_disabled", "The event's endpoint is disabled: enable it first."),
    "quota_exceeded": ("quota_exceeded", "The user's quota of the request's period has no room for it."),
    "budget_exceeded": ("budget_exceeded", "A budget of the request's period has no room for it."),
    "budget_currency_differs": (
        "budget_currency_differs",
        "The user's price list is in another currency. Leave currency out to set the amount in that one.",
    ),
    "month_closed": (
        "month_closed",
        "A statement has billed tokens of these days without a price, and is final. Let the price begin later.",
    ),
    "price_in_past": ("price_in_past", "Days that are over have a price already. Price them by another price_list."),
    "currency_differs": ("currency_differs", "The price list is in another currency: leave currency out."),
    "window_in_past": ("price_in_past", "Days that are over may have been billed: let it begin today or later."),
    "window_currency_differs": ("currency_differs", "The two price lists are in different currencies."),
}


def refusal(constraint: str) -> SluiceError:
    """The error that a constraint or code stands for."""
    return SluiceError(*REFUSALS[constraint])
