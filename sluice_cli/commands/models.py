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
    """See and describe the models that clients may name."""


@models.command("list")
@pass_session
def list_models(session: Session) -> None:
    """List the models, with today's prices per million tokens."""
    session.show("model.list", {}, lambda found: table(_LISTED, found))


@models.command("set")
@click.argument("model", metavar="MODEL")
@click.option("--backend", type=click.Choice(BACKENDS), required=True)
@click.option("--backend-model", required=True, help="The name that the backend knows.")
@click.option("--endpoint", metavar="URL", help="The base URL of an OpenAI-compatible server.")
@click.option("--secret-arn", metavar="ARN", help="The secret that holds the endpoint's API key.")
@click.option("--max-tokens-default", type=int, metavar="N", help="Completion tokens where a request names none.")
@click.option("--max-tokens-limit", type=int, metavar="N", help="The most that a request may name.")
@click.option("--overhead-tokens", type=int, metavar="N", help="The most that the chat template adds.")
@click.option("--timeout-seconds", type=int, metavar="N", help="How long an answer may take.")
@click.option("--default/--no-default", "is_default", default=None, help="The model of requests that name none.")
@click.option("--active/--inactive", "is_active", default=None, help="Whether new requests may name it.")
@click.option("--prompt-price", type=PRICE, help="In the standard list from today, for a million tokens.")
@click.option("--completion-price", type=PRICE, help="The same, for completion tokens.")
@pass_session
def set_model(
    session: Session,
    /,
    model: str,
    prompt_price: str | None,
    completion_price: str | None,
    **description: object,
) -> None:
    """Make a model, or replace the whole description of one.

    What is left out gets its default, not what it was. Only prices that are left out stay.
    """
    arguments = given(model_id=model, **description, prices=given(prompt=prompt_price, completion=completion_price))
    session.show("model.set", arguments, lambda made: record(_MODEL, made))
