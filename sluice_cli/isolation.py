"""A botocore session for servers on this machine."""

import os

import botocore.session


def isolated_session() -> botocore.session.Session:
    """Return a session that ignores the caller's profile and AWS files: neither is about a server on this machine.

    Credentials, region and endpoint have to be given to each client.
    """
    return botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
