"""The error of this package."""


class LocalError(RuntimeError):
    """A failure that the user can act on. The message is shown as it is, without a traceback."""
