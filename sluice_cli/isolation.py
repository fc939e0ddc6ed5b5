"""A botocore session for servers on this machine."""

import os

import botocore.session


def isolated_session() -> botocore.session.Session:
    """Return a session that ignores the caller's AWS profile and files: they do not concern a server on this machine.

    Pass credentials, region and endpoint to each client.
    """
    return botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
