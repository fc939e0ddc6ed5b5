"""What the stack and its child processes see of the caller's environment.

They speak to an emulator with invented credentials. Whatever could lead a tool to a real account (profiles,
credentials, endpoints, configuration files) is left out or overridden, whoever starts the stack and wherever.
"""

import os
import platform
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import botocore.config

from local.errors import LocalError
from local.ports import LOOPBACK
from sluice_cli.isolation import isolated_session

ROOT = Path(__file__).resolve().parent.parent
REGION = "us-east-1"
ACCOUNT = "000000000000"
# The emulator takes any; these are recognisable where they turn up.
ACCESS_KEY = "local"
SECRET_KEY = "local"  # noqa: S105

_KEPT = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    # How this machine reaches a package index, which building the layer may need.
    | {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}
)
_KEPT_PREFIXES = ("PIP_", "SLUICE_")
_ARCHITECTURES: Mapping[str, str] = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def child_environment(**more: str) -> dict[str, str]:
    """The variables for a child process: a few of the caller's, none of AWS's, and `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if value and (name in _KEPT or name.startswith(_KEPT_PREFIXES))
    }
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY"), LOOPBACK, "localhost"]))
    return {"PATH": os.defpath, **kept, "NO_PROXY": direct, "no_proxy": direct, **more}


def aws_variables(endpoint_url: str) -> dict[str, str]:
    """The variables with which an AWS SDK or tool reaches the emulator and nothing else."""
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def aws_client(service: str, endpoint_url: str) -> Any:
    """A boto3-style client of the emulator; blind to the caller's profile, credentials and proxies."""
    # Long enough for the longest function; a call that was answered late must not be made twice.
    config = botocore.config.Config(proxies={}, read_timeout=910, retries={"total_max_attempts": 1})
    return isolated_session().create_client(
        service,
        region_name=REGION,
        endpoint_url=endpoint_url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=config,
    )


#: Opens http://127.0.0.1:…, whatever proxy the caller's environment names.
direct_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def architecture() -> str:
    """This machine's processor as Lambda names it."""
    machine = platform.machine().lower()
    try:
        return _ARCHITECTURES[machine]
    except KeyError:
        raise LocalError(
            f"This machine's processor, {machine}, is none that Lambda has: use x86-64 or arm64."
        ) from None
