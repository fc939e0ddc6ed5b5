"""Reserved concurrency: how many environments of each function may run at once, where the account's quota allows it."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

logger = logging.getLogger(__name__)

# Lambda keeps this much of the account's quota for functions without a reservation.
UNRESERVED_MINIMUM: Final = 100


def reserve_if_possible(client: Any, wanted: Mapping[str, int]) -> str:
    """Reserve concurrency for functions, or for none of them if the account's quota does not hold it all.

    Never fails: without reservations, the limits of the database's roles still hold.

    Args:
        client: boto3's client of Lambda.
        wanted: environments by the name of the function.

    Returns:
        a sentence for the person who deploys.
    """
    needed = sum(wanted.values())
    told = ", ".join(f"{function} {number}" for function, number in wanted.items())
    present: dict[str, int] = {}
    made: list[str] = []
    try:
        present = {function: _reserved(client, function) for function in wanted}
        account = client.get_account_settings()["AccountLimit"]
        free = account["UnreservedConcurrentExecutions"] + sum(present.values())
        if free - needed < UNRESERVED_MINIMUM:
            release(client, [function for function, number in present.items() if number])
            return (
                f"No concurrency is reserved: that would take {needed} and leave {UNRESERVED_MINIMUM}, and {free} of "
                f"the account's quota of {account['ConcurrentExecutions']} are free. Ask AWS to raise the quota and "
                "deploy again."
            )
        # Those that shrink first: in between, the sum must fit too.
        for function in sorted(wanted, key=lambda name: wanted[name] - present[name]):
            client.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=wanted[function])
            made.append(function)
    except (BotoCoreError, ClientError) as error:
        logger.warning("concurrency not reserved", extra={"error": _name(error)})
        # All or none; what an earlier deployment reserved stays.
        release(client, [function for function in made if not present[function]])
        return f"Concurrency could not be reserved: Lambda answered {_name(error)}. Deploy again to try again."
    return f"Reserved concurrency: {told}; the account's quota is {account['ConcurrentExecutions']}."


def release(client: Any, functions: Iterable[str]) -> None:
    """Take reservations back. Functions that are gone have none."""
    for function in functions:
        try:
            client.delete_function_concurrency(FunctionName=function)
        except (BotoCoreError, ClientError) as error:
            logger.warning("reservation not taken back", extra={"function": function, "error": _name(error)})


def _reserved(client: Any, function: str) -> int:
    return int(client.get_function_concurrency(FunctionName=function).get("ReservedConcurrentExecutions", 0))


def _name(error: BotoCoreError | ClientError) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
