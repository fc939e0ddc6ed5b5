"""The processes in which the local stack runs its functions."""

import os
import subprocess
from collections.abc import Iterator

from local.stack import Stack


def function_processes(stack: Stack) -> Iterator[tuple[int, str]]:
    """Process id and role of the running functions; the emulator's command line contains their folder."""
    emulator = stack.emulator.process
    if emulator is None:
        return
    listing = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,command="], capture_output=True, text=True, check=True, env={"PATH": os.defpath}
    )
    names = {f"-{name}-": role for role, name in stack.info.functions.items()}
    for line in listing.stdout.splitlines():
        pid, parent, command = line.split(maxsplit=2)
        if int(parent) == emulator.pid:
            yield from ((int(pid), role) for name, role in names.items() if name in command)
