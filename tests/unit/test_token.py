"""The token with which a function logs in to its database is the one that botocore would make."""

from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote, urlencode

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from sluice.db.token import TOKEN_SECONDS, AccessKey, database_token

AT = datetime(2031, 1, 30, 9, 8, 7, tzinfo=UTC)


@pytest.mark.parametrize("session_token", [None, "FwoGZXIvYXdzEJr//////////wEaDH+=="])
@pytest.mark.parametrize("user", ["sluice_submit", "a user/with=signs&more"])
def test_it_has_botocores_parameters(session_token: str | None, user: str) -> None:
    key = AccessKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", session_token)
    token = database_token(key, "db.example", 5432, user, "eu-central-1", AT)

    asked = urlencode({"Action": "connect", "DBUser": user}, quote_via=quote, safe="-_.~")
    request = AWSRequest("GET", f"https://db.example:5432/?{asked}")
    with patch("botocore.auth.get_current_datetime", lambda: AT.replace(tzinfo=None)):
        credentials = Credentials(key.key_id, key.secret, key.session_token)
        SigV4QueryAuth(credentials, "rds-db", "eu-central-1", TOKEN_SECONDS).add_auth(request)
    assert _members(token) == _members(str(request.url))
    assert token.partition("?")[0] == "db.example:5432/"


def _members(url: str) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in url.partition("?")[2].split("&"))}


def test_the_key_is_what_lambda_gives() -> None:
    given = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    assert AccessKey.from_environment(given) == AccessKey("id", "secret", "token")
    assert AccessKey.from_environment({"AWS_ACCESS_KEY_ID": "id"}) is None


def test_no_secret_is_shown() -> None:
    assert repr(AccessKey("id", "secret", "token")) == "AccessKey(key_id='id')"
