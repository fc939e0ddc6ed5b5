"""Clients of AWS's services, made by botocore: boto3 would add resources and file transfers, which nothing here uses.

Only what makes a client imports this: botocore takes longer to import than most of what a function needs.
"""

from functools import cache
from threading import Lock
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import NoCredentialsError
from botocore.session import Session, get_session

_making_clients = Lock()
# Calls made while a request waits: better to fail soon, with a clear error, than to use up the function's time.
_FAIL_FAST: Final = {
    "connect_timeout": 2,
    "read_timeout": 4,
    "retries": {"total_max_attempts": 2, "mode": "standard"},
}


def client(service: Any, region: str, **config: Any) -> Any:
    """A client of a service.

    Args:
        config: of botocore.config.Config; by default, calls fail after seconds.
    """
    # The worker's threads ask at the same time, and making clients is not thread-safe in botocore.
    with _making_clients:
        return _session().create_client(service, region_name=region, config=Config(**config or _FAIL_FAST))


def role_credentials() -> tuple[str, str, str | None]:
    """The key's id, the secret key and the session token of this function's role, wherever they are; renewed in time.

    Raises:
        botocore.exceptions.BotoCoreError: there are none, or they cannot be had.
    """
    found = _session().get_credentials()
    if found is None:
        raise NoCredentialsError
    frozen = found.get_frozen_credentials()
    return str(frozen.access_key), str(frozen.secret_key), frozen.token


@cache
def _session() -> Session:
    return get_session()
