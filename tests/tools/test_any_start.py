"""Tests give the same results however they are started: in the background, by cron, with a person's settings."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What depends most on how a process was started: signals, streams, the environment.
SENSITIVE = [
    "tests/cli/test_program.py",
    "tests/cli/test_account.py",
    "tests/local/test_processes.py",
    "tests/local/test_environment.py",
    "tests/local/test_signals.py",
    "tests/unit/test_config.py",
]
# A person's, which lead elsewhere or change what is printed.
SETTINGS = {
    "AWS_PROFILE": "none-such",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_DEFAULT_REGION": "mars-north-1",
    "AWS_REGION": "mars-north-1",
    "SLUICE_STACK": "production",
    "PGHOST": "192.0.2.1",
    "PGPORT": "1",
    "PGUSER": "nobody-known",
    "PGPASSWORD": "wrong",
    "PGSERVICE": "none-such",
    "PGOPTIONS": "-c search_path=nowhere",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "NO_PROXY": "",
    "CI": "true",
    "NO_COLOR": "1",
    "FORCE_COLOR": "1",
    "COLUMNS": "20",
    "PAGER": "false",
    "TERM": "dumb",
    "TZ": "Pacific/Chatham",
    "LC_ALL": "C",
    "PYTHONUNBUFFERED": "1",
}


def background() -> None:
    """As under nohup, in the background of a shell without job control, with a cautious umask and without input."""
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    os.umask(0o077)
    os.close(0)


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=os.environ | settings,
        check=False,
        text=True,
        capture_output=True,
        preexec_fn=background,
        start_new_session=True,  # no terminal either
    )


@pytest.mark.slow
def test_tests_pass_in_the_background_with_a_persons_settings() -> None:
    done = run(*SENSITIVE, **SETTINGS)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
