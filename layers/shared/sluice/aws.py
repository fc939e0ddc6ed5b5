"""AWS through botocore: signatures, and clients. boto3 would add resources and file transfers, which nothing here uses.

What a client needs is imported when the first one is made, since it takes longer than all else that a function imports;
signing needs little of it.
"""

from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ContainerProvider, CredentialResolver, Credentials, EnvProvider
from botocore.exceptions import NoCredentialsError

if TYPE_CHECKING:
    from botocore.session import Session

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
    from botocore.config import Config

    # The worker's threads ask at the same time, and making clients is not thread-safe in botocore.
    with _making_clients:
        return _session().create_client(service, region_name=region, config=Config(**config or _FAIL_FAST))


def signed_url(url: str, service: str, region: str, seconds: int) -> str:
    """A URL that this function's role has signed, valid for so long.

    Raises:
        botocore.exceptions.NoCredentialsError, CredentialRetrievalError: there are no credentials.
    """
    request = AWSRequest("GET", url)
    SigV4QueryAuth(_credentials().get_frozen_credentials(), service, region, seconds).add_auth(request)
    return str(request.url)


@cache
def _session() -> "Session":
    from botocore.session import get_session

    return get_session()


@cache
def _credentials() -> Credentials:
    # Lambda gives a role's credentials as variables, and those of a restored snapshot from an endpoint, which renews them.
    found = CredentialResolver([EnvProvider(), ContainerProvider()]).load_credentials()
    if found is None:
        raise NoCredentialsError
    return found
