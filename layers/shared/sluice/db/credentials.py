"""How to log in: with a token that IAM signs for each connect, or with the secret of a bring-your-own database."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from sluice.config import Settings
from sluice.domain.errors import ConfigurationError

# Shipped in the layer: Amazon's roots for RDS. A bring-your-own database is verified against the same file unless its
# secret names another (sslrootcert) or another way (sslmode).
CA_BUNDLE: Final = Path("/opt/certs/rds-ca.pem")
# Calls made while a request waits: better to fail soon, with a clear error, than to use up the function's time.
FAIL_FAST: Final = Config(connect_timeout=2, read_timeout=4, retries={"total_max_attempts": 2, "mode": "standard"})


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
    token = _rds(settings.aws_region).generate_db_auth_token(host, settings.database_port, user)
    return common | {
        "host": host,
        "port": settings.database_port,
        "dbname": settings.database_name,
        "user": user,
        "password": token,
        "sslmode": "verify-full",
        "sslrootcert": str(CA_BUNDLE),
    }


def forget_secret() -> None:
    """Read the secret again at the next connect: it may have been rotated."""
    _secret.cache_clear()


@cache
def _secret(arn: str, region: str) -> Mapping[str, Any]:
    client = boto3.client("secretsmanager", region_name=region, config=FAIL_FAST)
    try:
        secret = json.loads(client.get_secret_value(SecretId=arn)["SecretString"])
        missing = {"host", "username", "password"} - secret.keys()
        port = int(secret.get("port", 5432))
    except (ValueError, TypeError, LookupError, AttributeError):
        raise ConfigurationError("the database secret is not a JSON object with a number for its port") from None
    if missing:
        raise ConfigurationError(f"the database secret lacks {', '.join(sorted(missing))}")
    return {**secret, "port": port}


@cache
def _rds(region: str) -> Any:
    return boto3.client("rds", region_name=region, config=FAIL_FAST)
