"""Operations on models, their aliases, and prices."""

from dataclasses import asdict
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from sluice.backends.mapping_rules import check_mapping
from sluice.backends.registry import BACKENDS
from sluice.domain.caching import MaxAge
from sluice.domain.errors import DatabaseError, SluiceError
from sluice.domain.fields import Currency, Day, Identifier, Price, Storable, Strict, TokenLimit, one_of
from sluice.domain.requests import ModelKind
from sluice.domain.vocabulary import TOKEN_CLASSES
from sluice.domain.windows import CompletionWindow
from sluice.services.admin.operation import AdminContext, Change, NoArguments, Operation, database_operation


class Prices(Strict):
    """Per million tokens, in the currency of the standard list."""

    prompt: Price | None = None
    cached_prompt: Price | None = None
    completion: Price | None = None
    reasoning: Price | None = None
    cached_answer: Price | None = None
    """Per million requests that were answered from the cache."""


class ModelSet(Change):
    """What is left out stays as it is; null clears an endpoint, a secret, image_tokens or a mapping.

    The database has a new model's defaults.
    """

    model_id: Identifier
    backend: Annotated[str, one_of(BACKENDS)] = ""
    backend_model: Annotated[str, Field(min_length=1, max_length=200), Storable] = ""
    # Without user:password@: credentials belong in a secret.
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$"), Storable] | None = None
    secret_arn: Annotated[str, Field(min_length=1), Storable] | None = None
    max_tokens_default: TokenLimit = 256
    max_tokens_limit: TokenLimit = 1024
    overhead_tokens: int = Field(default=64, ge=0, le=10**9)
    timeout_seconds: int = Field(default=60, ge=1, le=900)
    is_default: bool = False
    is_active: bool = True
    kind: ModelKind = "chat"
    item_tokens: int = Field(default=16, ge=0, le=10**5)
    image_tokens: int | None = Field(default=None, ge=0, le=10**5)
    mapping: Annotated[dict[str, JsonValue], AfterValidator(check_mapping)] | None = None
    cache_max_age: MaxAge | None = None
    prices: Prices = Prices()
    force: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """What contradicts itself; the database knows the rest of the model."""
        given = self.model_fields_set
        if self.backend == "openai" and self.endpoint is None and "endpoint" in given:
            raise ValueError("a model of the openai backend needs an endpoint")
        if {"max_tokens_default", "max_tokens_limit"} <= given and self.max_tokens_default > self.max_tokens_limit:
            raise ValueError("max_tokens_default must not exceed max_tokens_limit")
        if self.is_default and not self.is_active:
            raise ValueError("the default model must be active")
        return self


class ModelFallback(Strict):
    """The models that answer in a model's place, in order; an empty list: none does."""

    model_id: Identifier
    fallbacks: Annotated[list[Identifier], Field(max_length=8)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.fallbacks)) < len(self.fallbacks):
            raise ValueError("a model is named twice in fallbacks")
        return self


class AliasNamed(Strict):
    alias: Identifier


class AliasSet(AliasNamed):
    """Makes another name of a model, or gives one to another model."""

    model_id: Identifier


class PriceList(Strict):
    price_list: Identifier | None = None
    model_id: Identifier | None = None
    on: Day | None = None


class PriceSet(Strict):
    model_id: Identifier
    prompt: Price | None = None
    cached_prompt: Price | None = None
    completion: Price | None = None
    reasoning: Price | None = None
    cached_answer: Price | None = None
    price_list: Identifier = "standard"
    valid_from: Day | None = None
    currency: Currency | None = None

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if all(getattr(self, kind) is None for kind in TOKEN_CLASSES):
            raise ValueError(f"give at least one of {', '.join(TOKEN_CLASSES)}")
        return self


class PriceWindows(Strict):
    price_list: Identifier | None = None


class PriceWindow(Strict):
    """Requests with this completion window, of users who are billed by price_list, are billed by window_list."""

    window: CompletionWindow
    window_list: Identifier
    price_list: Identifier = "standard"
    valid_from: Day | None = None


def list_windows(context: AdminContext, given: PriceWindows) -> list[dict[str, Any]]:
    if given.price_list is not None and not context.reports.price_list_exists(given.price_list):
        raise _price_list_unknown()
    return [asdict(row) for row in context.administration.price_windows(given.price_list)]


def list_prices(context: AdminContext, given: PriceList) -> list[dict[str, Any]]:
    prices = context.administration.prices(given.price_list, given.model_id, given.on)
    if given.price_list is not None and not prices and not context.reports.price_list_exists(given.price_list):
        raise _price_list_unknown()
    return [asdict(price) for price in prices]


def _price_list_unknown() -> SluiceError:
    return SluiceError("price_list_unknown", "There is no price list of this name.")


def list_models(context: AdminContext, _: NoArguments) -> list[dict[str, Any]]:
    return [asdict(model) for model in context.administration.models()]


def list_aliases(context: AdminContext, _: NoArguments) -> list[dict[str, Any]]:
    return [asdict(alias) for alias in context.administration.aliases()]


def set_model(context: AdminContext, given: ModelSet) -> Any:
    arguments = given.model_dump(mode="json", exclude_unset=True)
    prices = given.prices.model_dump(mode="json", exclude_none=True)
    try:
        return context.administration.run("model.set", arguments | {"prices": prices})
    except DatabaseError as error:
        if error.constraint != "model_incomplete":
            raise
        missing = [name for name in ("backend", "backend_model") if name not in given.model_fields_set]
        missing += ["endpoint"] if given.backend == "openai" and given.endpoint is None else []
        raise SluiceError(
            "invalid_input",
            f"There is no model of this name yet, and a new one needs {' and '.join(missing)}.",
            errors=[{"pointer": f"/{name}", "detail": "a new model needs it"} for name in missing],
        ) from None


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "price.list": Operation(PriceList, list_prices),
    "price.set": database_operation("price.set", PriceSet),
    "price.windows": Operation(PriceWindows, list_windows),
    "price.window": database_operation("price.window", PriceWindow),
    "model.list": Operation(NoArguments, list_models),
    "model.set": Operation(ModelSet, set_model),
    "model.fallback": database_operation("model.fallback", ModelFallback),
    "alias.list": Operation(NoArguments, list_aliases),
    "alias.set": database_operation("alias.set", AliasSet),
    "alias.remove": database_operation("alias.remove", AliasNamed),
}
