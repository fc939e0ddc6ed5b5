"""Handing work over to another function: a claimed request, or a webhook that is to be sent."""

import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)

logger = logging.getLogger(__name__)

# What Lambda answers when it has not begun: too much traffic, no such function or right, an event that is too large.
_NOT_BEGUN: Final = range(400, 500)


class NotStartedError(Exception):
    """A run could not be started: what was claimed is as it was."""


class BrokenOffError(Exception):
    """A run ended without an answer: its environment crashed."""


class LambdaRunner:
    """Runs claimed requests in a function of its own.

    Args:
        client: botocore's client of Lambda. Its read timeout is how long a client may wait, and it never tries again: a
            second event with the same claim would call the model twice.
        function: the name of the function.
    """

    def __init__(self, client: Any, function: str) -> None:
        self._client = client
        self._function = function

    def __call__(self, claim: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Run a claimed request, and wait for as long as a client waits.

        Returns:
            what the worker function answers: outcome, kind and status; None: it is not done, and may go on.

        Raises:
            NotStartedError, BrokenOffError.
        """
        return _invoke(self._client, self._function, {"claim": claim})


class LambdaSender:
    """Has webhooks sent by a function that can reach nothing but the internet.

    Args:
        client: botocore's client of Lambda, which never tries again and waits longer than that function may take.
        function: the name of the function.
    """

    def __init__(self, client: Any, function: str) -> None:
        self._client = client
        self._function = function

    def __call__(self, webhook: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Have one sent.

        Args:
            webhook: url, headers, body.

        Returns:
            what became of it, as sluice.posting says; None: it was not done in time.

        Raises:
            NotStartedError, BrokenOffError.
        """
        return _invoke(self._client, self._function, webhook)


def _invoke(client: Any, function: str, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        answer = client.invoke(FunctionName=function, Payload=json.dumps(event))
        if "FunctionError" in answer:
            raise BrokenOffError
        done: Mapping[str, Any] = json.loads(answer["Payload"].read())
    except ReadTimeoutError:
        return None
    except ClientError as error:
        logger.warning("run not started", extra={"error": error.response.get("Error", {}).get("Code")})
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) in _NOT_BEGUN:
            raise NotStartedError from None
        return None
    except (ConnectTimeoutError, EndpointConnectionError) as error:
        logger.warning("run not started", extra={"error": type(error).__name__})
        raise NotStartedError from None
    except (BotoCoreError, ValueError) as error:
        # It may go on. If it does not, its lease runs out.
        logger.warning("run lost from sight", extra={"error": type(error).__name__})
        return None
    return done
