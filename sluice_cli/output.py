"""Standard output and standard error that cannot be written: found out before anything is done, not after.

A stream may be closed (`>&-`), not open for writing, a pipe that nobody reads any more, or a file on a full disk.
"""

import errno
import fcntl
import io
import os
import select
import stat
import sys
from typing import Final

import click

_INPUT, _OUTPUT, _ERRORS = range(3)
_REASONS: Final = {errno.EBADF: "it is not open for writing", errno.EPIPE: "nothing reads it"}


def prepare_streams() -> None:
    """Make the standard streams safe to use. Call it first, before anything is opened.

    A file that is opened later must not get the number of a standard stream that is closed: it would be overwritten.
    Writing to a closed standard output raises OSError afterwards. What is written to a standard error that nobody can
    read is dropped: a command has nowhere else to complain, and its exit code still tells.
    """
    for descriptor, mode in ((_INPUT, os.O_RDONLY), (_OUTPUT, os.O_RDONLY), (_ERRORS, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given out, and the ones below are open.
            os.set_inheritable(os.open(os.devnull, mode), True)
    if sys.stdout is None or isinstance(sys.stdout.buffer, io.RawIOBase):
        # With PYTHONUNBUFFERED, Python ignores that only a part was written, as on a disk that is full.
        encoding, errors = (sys.stdout.encoding, sys.stdout.errors) if sys.stdout else ("utf-8", "strict")
        sys.stdout = open(_OUTPUT, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115  (for good)
    if sys.stderr is None:
        sys.stderr = open(_ERRORS, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  (for good)
    if _problem(_ERRORS) is not None:
        _discard(_ERRORS)


def check_output() -> None:
    """Raise OSError if standard output can certainly not be written now. Nothing is written to find out."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return  # replaced by a test or another program, in memory
    if (problem := _problem(descriptor)) is not None:
        raise problem


def reason(error: OSError) -> str:
    """Return why standard output cannot be written, as part of a sentence."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def abandon_output() -> None:
    """Drop what is still buffered: Python would try again to write it at exit, and fail with a code of its own."""
    try:
        _discard(sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):
        return


def say(text: str) -> None:
    """Print a line on standard error; drop it if that is not possible."""
    try:
        click.echo(text, err=True)
    except OSError:
        _discard(_ERRORS)


def _problem(descriptor: int) -> OSError | None:
    """Return why nothing can be written to a file, or None if no reason is known."""
    try:
        status = os.fstat(descriptor)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            return OSError(errno.EBADF, os.strerror(errno.EBADF))
        if (stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)) and _has_no_reader(descriptor):
            return OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        if not stat.S_ISSOCK(status.st_mode):  # some kinds of sockets would send an empty message
            os.write(descriptor, b"")  # /dev/full refuses even this
        if stat.S_ISREG(status.st_mode) and _is_full(descriptor):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        return error
    return None


def _has_no_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, events in poll.poll(0))


def _is_full(descriptor: int) -> bool:
    """Return True if the disk has no room left for this user; disks that do not say how large they are have room."""
    disk = os.fstatvfs(descriptor)
    return disk.f_blocks > 0 and (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) == 0


def _discard(descriptor: int) -> None:
    """Send what is written to a file from now on to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)
