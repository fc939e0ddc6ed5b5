"""The one kind of error of this package that is meant for a person."""


class LocalError(RuntimeError):
    """Something a person can act on. Its text is the whole sentence to show; no traceback helps further."""
