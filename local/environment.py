"""The environment of the stack and its child processes.

They use an emulator with made-up credentials. Everything in the caller's environment that could lead a tool to a real
account (profiles, credentials, endpoints, configuration files) is removed or overridden.
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
# The emulator accepts any; these are easy to recognise.
ACCESS_KEY = "local"
SECRET_KEY = "local"  # noqa: S105

_KEPT = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    # Network settings, because building the layer may need a package index.
    | {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}
)
_KEPT_PREFIXES = ("PIP_", "SLUICE_")
_ARCHITECTURES: Mapping[str, str] = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def child_environment(**more: str) -> dict[str, str]:
    """Return the variables for a child process: some of the caller's, none of AWS, and `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if value and (name in _KEPT or name.startswith(_KEPT_PREFIXES))
    }
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY"), LOOPBACK, "localhost"]))
    # PYTHONUTF8: files and their names are UTF-8, also where the locale is C.
    return {"PATH": os.defpath, "PYTHONUTF8": "1", **kept, "NO_PROXY": direct, "no_proxy": direct, **more}


def bypass_proxy(address: str) -> None:
    """Let this process and its children reach an address without a proxy."""
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), address]))


def forget_postgres_settings() -> None:
    """Remove the caller's PG* variables from this process: libpq adds them to what a connection URL leaves open."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def aws_variables(endpoint_url: str) -> dict[str, str]:
    """Return variables that make AWS SDKs and tools use the emulator and nothing else."""
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
    """Return a boto3-style client of the emulator that ignores the caller's profile, credentials and proxies."""
    # Longer than the longest function. No retries: a slow call must not be made twice.
    config = botocore.config.Config(proxies={}, read_timeout=910, retries={"total_max_attempts": 1})
    return isolated_session().create_client(
        service,
        region_name=REGION,
        endpoint_url=endpoint_url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=config,
    )


# Opens http://127.0.0.1:… directly, even if the caller's environment has a proxy.
direct_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def architecture() -> str:
    """Return Lambda's name for this machine's processor."""
    machine = platform.machine().lower()
    try:
        return _ARCHITECTURES[machine]
    except KeyError:
        raise LocalError(
            f"This machine's processor, {machine}, is not supported by Lambda: use x86-64 or arm64."
        ) from None
