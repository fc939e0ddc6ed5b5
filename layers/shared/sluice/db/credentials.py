"""How to log in: with a token that IAM signs for each connect, or with the secret of a bring-your-own database."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from sluice.config import Settings
from sluice.db.token import AccessKey, database_token
from sluice.domain.errors import ConfigurationError

# Shipped in the layer: Amazon's roots for RDS. A bring-your-own database is verified against the same file unless its
# secret names another (sslrootcert) or another way (sslmode).
CA_BUNDLE: Final = Path("/opt/certs/rds-ca.pem")


class CredentialsError(Exception):
    """AWS did not give what logging in needs. Its text is the name of botocore's error."""


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """What libpq needs to connect; TLS is verified unless a secret says otherwise.

    Raises:
        ConfigurationError: neither a secret nor a host is set, or the secret is not usable.
        CredentialsError: the secret cannot be read, or the role's credentials cannot be had.
    """
    common: dict[str, Any] = {"connect_timeout": 3, "application_name": settings.database_role or "sluice_migrate"}
    if settings.database_secret_arn:
        secret = _secret(settings.database_secret_arn, settings.aws_region)
        return common | {
            "host": secret["host"],
            "port": secret["port"],
            "dbname": secret.get("dbname", settings.database_name),
            "user": secret["username"],
            "password": secret["password"],
            "sslmode": secret.get("sslmode", "verify-full"),
            "sslrootcert": secret.get("sslrootcert", str(CA_BUNDLE)),
        }
    host, user = settings.require("database_host"), settings.require("database_role")
    return common | {
        "host": host,
        "port": settings.database_port,
        "dbname": settings.database_name,
        "user": user,
        "password": _token(host, settings.database_port, user, settings.aws_region),
        "sslmode": "verify-full",
        "sslrootcert": str(CA_BUNDLE),
    }


def forget_secret() -> None:
    """Read the secret again at the next connect: it may have been rotated."""
    _secret.cache_clear()


@cache
def _secret(arn: str, region: str) -> Mapping[str, Any]:
    text = _from_aws(lambda aws: aws.client("secretsmanager", region).get_secret_value(SecretId=arn)["SecretString"])
    try:
        secret = json.loads(text)
        missing = {"host", "username", "password"} - secret.keys()
        port = int(secret.get("port", 5432))
    except (ValueError, TypeError, LookupError, AttributeError):
        raise ConfigurationError("the database secret is not a JSON object with a number for its port") from None
    if missing:
        raise ConfigurationError(f"the database secret lacks {', '.join(sorted(missing))}")
    return {**secret, "port": port}


def _token(host: str, port: int, user: str, region: str) -> str:
    # Credentials of a restored snapshot (SnapStart) are not variables: an endpoint gives them, and botocore knows how.
    key = AccessKey.from_environment(os.environ) or AccessKey(*_from_aws(lambda aws: aws.role_credentials()))
    return database_token(key, host, port, user, region, datetime.now(UTC))


def _from_aws(ask: Callable[[Any], Any]) -> Any:
    # botocore is what takes longest to import, and a function that logs in with its own credentials does without it.
    from botocore.exceptions import BotoCoreError, ClientError

    from sluice import aws

    try:
        return ask(aws)
    except (BotoCoreError, ClientError) as error:
        raise CredentialsError(type(error).__name__) from None
