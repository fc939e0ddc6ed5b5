"""The process as tests expect it, however it was started: from a terminal, in the background, by cron, in CI."""

import os
import signal
import time

# What tests are told on purpose, and what building needs.
_KEPT = ("SLUICE_TEST_DSN", "SLUICE_WRITE_SNAPSHOT", "SLUICE_EXAMPLES", "SLUICE_SAM_RUNTIME", "SLUICE_SAM_IMAGE")
# Settings of a person, an account or a server, which change what programs do.
_PREFIXES = ("AWS_", "SLUICE_", "PG", "SAM_", "POWERTOOLS_", "LC_")
_NAMES = {
    *("CI", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES", "PAGER", "TERM", "TZ"),
    *("PYTHONPATH", "PYTHONIOENCODING", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONUNBUFFERED", "DATABASE_SECRET_ARN"),
    *("LANG", "LANGUAGE", "NO_PROXY", "MAKEFLAGS", "MAKELEVEL", "CDPATH", "ENV", "BASH_ENV", "SHELLOPTS"),
}


def begin() -> None:
    """Make this process, and so the programs that it starts, independent of its caller.

    Signals that were ignored or blocked are delivered; variables that would change what is tested are gone. Proxies stay
    for downloads, but not for this machine.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.fstat(0)
    except OSError:  # closed: the next file would become the standard input of what is started
        os.open(os.devnull, os.O_RDONLY)
    os.umask(0o022)
    for name in list(os.environ):
        if name not in _KEPT and (name in _NAMES or name.startswith(_PREFIXES)):
            del os.environ[name]
    os.environ["LC_ALL"], os.environ["TZ"] = "C.UTF-8", "UTC"
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    time.tzset()
