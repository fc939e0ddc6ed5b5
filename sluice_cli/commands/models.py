"""`sluice models`."""

from typing import Any

import click

from sluice_cli.commands.aliases import set_alias
from sluice_cli.groups import Group
from sluice_cli.options import COUNT, COUNT_OR_ZERO, DURATION, JSON_OBJECT, PRICE, Null, cleared, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import number, record, table, text, time
from sluice_cli.vocabulary import BACKENDS, MODEL_KINDS

_LISTED = (
    text("model_id"),
    text("kind"),
    text("backend"),
    text("backend_model"),
    text("endpoint"),
    number("max_tokens_default"),
    number("max_tokens_limit"),
    number("timeout_seconds"),
    text("is_default"),
    text("is_active"),
    text("fallbacks"),
    text("breaker.state", "breaker"),
    number("prices.prompt", "prompt_price"),
    number("prices.completion", "completion_price"),
)
_MODEL = (
    *_LISTED,
    number("prices.cached_prompt", "cached_prompt_price"),
    number("prices.reasoning", "reasoning_price"),
    number("overhead_tokens"),
    number("item_tokens"),
    number("image_tokens", null="no images"),
    number("cache_max_age"),
    number("prices.cached_answer", "cached_answer_price"),
    text("secret_arn"),
    text("mapping"),
    time("created_at"),
    time("updated_at"),
)


@click.group(cls=Group)
def models() -> None:
    """Show and configure the models that clients may use."""


@models.command("list")
@pass_session
def list_models(session: Session) -> None:
    """List the models, with today's prices per million tokens."""
    session.show("model.list", {}, lambda found: table(_LISTED, found))


@models.command("set")
@click.argument("model", metavar="MODEL")
@click.option("--kind", type=click.Choice(MODEL_KINDS), help="What a new model does; default: chat.")
@click.option("--backend", type=click.Choice(BACKENDS))
@click.option("--backend-model", help="The model's name at the backend; at SageMaker, the endpoint's.")
@click.option("--endpoint", metavar="URL", help="The base URL of an OpenAI-compatible server.")
@click.option("--no-endpoint", is_flag=True, help="Remove the endpoint.")
@click.option("--secret-arn", metavar="ARN", help="The secret that holds the endpoint's API key.")
@click.option("--no-secret-arn", is_flag=True, help="Remove the secret: call the endpoint without an API key.")
@click.option(
    "--mapping", type=JSON_OBJECT, metavar="FILE", help="How a SageMaker endpoint is asked and read, as JSON."
)
@click.option("--no-mapping", is_flag=True, help="Remove the mapping: the endpoint's container speaks OpenAI's API.")
@click.option("--max-tokens-default", type=COUNT, metavar="N", help="Completion tokens if a request sets no limit.")
@click.option("--max-tokens-limit", type=COUNT, metavar="N", help="The highest limit that a request may set.")
@click.option("--overhead-tokens", type=COUNT_OR_ZERO, metavar="N", help="Prompt tokens that the template may add.")
@click.option("--item-tokens", type=COUNT_OR_ZERO, metavar="N", help="The same for each further message, call or tool.")
@click.option("--image-tokens", type=COUNT_OR_ZERO, metavar="N", help="Prompt tokens that an image may count.")
@click.option("--no-images", is_flag=True, help="Take no images.")
@click.option("--timeout-seconds", type=COUNT, metavar="N", help="Timeout of a model call.")
@click.option("--default/--no-default", "is_default", default=None, help="Use it for requests that name no model.")
@click.option("--active/--inactive", "is_active", default=None, help="Accept new requests for it, or not.")
@click.option("--cache-max-age", type=DURATION, help="Age, like 1h, up to which answers are given again; 0s: none.")
@click.option("--no-cache-max-age", is_flag=True, help="Remove it: the tier's counts.")
@click.option("--prompt-price", type=PRICE, help="Per million prompt tokens, in the standard list from today.")
@click.option("--completion-price", type=PRICE, help="Per million completion tokens, likewise.")
@click.option("--cached-prompt-price", type=PRICE, help="Of prompt tokens from a cache; without it, the prompt's.")
@click.option("--reasoning-price", type=PRICE, help="Of reasoning tokens; without it, the completion's.")
@click.option("--cached-answer-price", type=PRICE, help="Per million answers from the cache; without it, none.")
@click.option("--force", is_flag=True, help="Remove the default mark even if no other model has it.")
@pass_session
def set_model(
    session: Session,
    /,
    model: str,
    endpoint: str | None,
    no_endpoint: bool,
    secret_arn: str | None,
    no_secret_arn: bool,
    mapping: dict[str, Any] | None,
    no_mapping: bool,
    image_tokens: int | None,
    no_images: bool,
    prompt_price: str | None,
    completion_price: str | None,
    cached_prompt_price: str | None,
    reasoning_price: str | None,
    cached_answer_price: str | None,
    cache_max_age: int | None,
    no_cache_max_age: bool,
    force: bool,
    **description: object,
) -> None:
    """Create a model, or change the given settings of one.

    A new model needs --backend and --backend-model, and --endpoint if its backend is openai.
    """
    if no_images and image_tokens is not None:
        raise click.UsageError("--image-tokens and --no-images cannot be combined.")
    changes = given(
        endpoint=cleared("endpoint", endpoint, no_endpoint),
        secret_arn=cleared("secret-arn", secret_arn, no_secret_arn),
        mapping=cleared("mapping", mapping, no_mapping),
        image_tokens=Null.NULL if no_images else image_tokens,
        prices=given(
            prompt=prompt_price,
            cached_prompt=cached_prompt_price,
            completion=completion_price,
            reasoning=reasoning_price,
            cached_answer=cached_answer_price,
        ),
        cache_max_age=cleared("cache-max-age", cache_max_age, no_cache_max_age),
        **description,
    )
    if not changes:
        raise click.UsageError("Give at least one option to change.")
    arguments = {"model_id": model, **changes, **given(force=force or None)}
    session.show("model.set", arguments, lambda model: record(_MODEL, model))


@models.command()
@click.argument("model", metavar="MODEL")
@click.argument("fallbacks", metavar="[FALLBACK]...", nargs=-1)
@click.option("--none", "remove", is_flag=True, help="Let no model answer in its place.")
@pass_session
def fallback(session: Session, model: str, fallbacks: tuple[str, ...], remove: bool) -> None:
    """Set the models that answer in a model's place, in this order.

    They do when it is out of service, refuses because of too much traffic, does not answer in time, or has too small a
    context. A request may name its own, or forbid them.
    """
    if remove == bool(fallbacks):
        raise click.UsageError("Give the models that answer in its place, or --none.")
    arguments = {"model_id": model, "fallbacks": list(fallbacks)}
    session.show("model.fallback", arguments, lambda model: record(_MODEL, model))


# Whoever wants another name for a model looks here first.
models.add_command(set_alias, "alias")
