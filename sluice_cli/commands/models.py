"""`sluice models`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import PRICE, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import number, record, table, text, time
from sluice_cli.vocabulary import BACKENDS

_LISTED = (
    text("model_id"),
    text("backend"),
    text("backend_model"),
    text("endpoint"),
    number("max_tokens_default"),
    number("max_tokens_limit"),
    number("timeout_seconds"),
    text("is_default"),
    text("is_active"),
    number("prices.prompt", "prompt_price"),
    number("prices.completion", "completion_price"),
)
_MODEL = (
    *_LISTED,
    number("overhead_tokens"),
    text("secret_arn"),
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
@click.option("--backend", type=click.Choice(BACKENDS), required=True)
@click.option("--backend-model", required=True, help="The model's name at the backend.")
@click.option("--endpoint", metavar="URL", help="The base URL of an OpenAI-compatible server.")
@click.option("--secret-arn", metavar="ARN", help="The secret that holds the endpoint's API key.")
@click.option("--max-tokens-default", type=int, metavar="N", help="Completion tokens if a request sets no limit.")
@click.option("--max-tokens-limit", type=int, metavar="N", help="The highest limit that a request may set.")
@click.option("--overhead-tokens", type=int, metavar="N", help="Prompt tokens that the chat template may add.")
@click.option("--timeout-seconds", type=int, metavar="N", help="Timeout of a model call.")
@click.option("--default/--no-default", "is_default", default=None, help="Use it for requests that name no model.")
@click.option("--active/--inactive", "is_active", default=None, help="Accept new requests for it, or not.")
@click.option("--prompt-price", type=PRICE, help="Per million prompt tokens, in the standard list from today.")
@click.option("--completion-price", type=PRICE, help="Per million completion tokens, likewise.")
@pass_session
def set_model(
    session: Session,
    /,
    model: str,
    prompt_price: str | None,
    completion_price: str | None,
    **description: object,
) -> None:
    """Create a model, or replace its whole configuration.

    An omitted option is reset to its default. Only prices keep their value if omitted.
    """
    arguments = given(model_id=model, **description, prices=given(prompt=prompt_price, completion=completion_price))
    session.show("model.set", arguments, lambda model: record(_MODEL, model))
