"""How to log in: with a token that IAM signs for each connect, or with the secret of a bring-your-own database."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sluice import aws
from sluice.config import Settings
from sluice.domain.errors import ConfigurationError

# Shipped in the layer: Amazon's roots for RDS. A bring-your-own database is verified against the same file unless its
# secret names another (sslrootcert) or another way (sslmode).
CA_BUNDLE: Final = Path("/opt/certs/rds-ca.pem")
# RDS accepts a token for this long after it was signed; connections made with it stay.
TOKEN_SECONDS: Final = 900


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """What libpq needs to connect; TLS is verified unless a secret says otherwise.

    Raises:
        ConfigurationError: neither a secret nor a host is set, or the secret is not usable.
        botocore.exceptions.BotoCoreError, ClientError: the secret cannot be read.
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
    client = aws.client("secretsmanager", region)
    try:
        secret = json.loads(client.get_secret_value(SecretId=arn)["SecretString"])
        missing = {"host", "username", "password"} - secret.keys()
        port = int(secret.get("port", 5432))
    except (ValueError, TypeError, LookupError, AttributeError):
        raise ConfigurationError("the database secret is not a JSON object with a number for its port") from None
    if missing:
        raise ConfigurationError(f"the database secret lacks {', '.join(sorted(missing))}")
    return {**secret, "port": port}


def _token(host: str, port: int, user: str, region: str) -> str:
    """A token of RDS's IAM authentication: a signed URL without its scheme. Nothing is called to make one."""
    url = f"https://{host}:{port}/?{urlencode({'Action': 'connect', 'DBUser': user})}"
    return aws.signed_url(url, "rds-db", region, TOKEN_SECONDS).removeprefix("https://")
