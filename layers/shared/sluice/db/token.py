"""A token of RDS's IAM authentication, which stands for a password: a URL with a signature of version 4.

Written here because botocore's signer brings an HTTP client, which a function that only connects to its database does
not need: it would be a quarter of what that function imports. A test compares it with botocore's, parameter by
parameter.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self
from urllib.parse import quote, urlencode

# RDS accepts a token for this long after it was signed; connections made with it stay.
TOKEN_SECONDS: Final = 900
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class AccessKey:
    """The credentials of a role."""

    key_id: str
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """Those that Lambda gives a function as variables; None if it has given none."""
        key_id, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
        return cls(key_id, secret, environment.get("AWS_SESSION_TOKEN")) if key_id and secret else None


def database_token(key: AccessKey, host: str, port: int, user: str, region: str, now: datetime) -> str:
    """The token with which a user logs in to a database, signed at a time in UTC. Nothing is called to make one."""
    day, at, address = f"{now:%Y%m%d}", f"{now:%Y%m%dT%H%M%SZ}", f"{host}:{port}"
    scope = f"{day}/{region}/rds-db/aws4_request"
    given = {
        "Action": "connect",
        "DBUser": user,
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{key.key_id}/{scope}",
        "X-Amz-Date": at,
        "X-Amz-Expires": str(TOKEN_SECONDS),
        "X-Amz-SignedHeaders": "host",
    } | ({"X-Amz-Security-Token": key.session_token} if key.session_token else {})
    query = urlencode(sorted(given.items()), safe="-_.~", quote_via=quote)
    request = f"GET\n/\n{query}\nhost:{address}\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
    to_sign = f"{_ALGORITHM}\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signing_key = f"AWS4{key.secret}".encode()
    for part in (*scope.split("/"), to_sign):
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    return f"{address}/?{query}&X-Amz-Signature={signing_key.hex()}"
