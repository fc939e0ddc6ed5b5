"""The image that `sam local` runs functions in: the published one of Lambda, or one with Debian's Python and Lambda's
runtime interface client, made where no registry of images can be reached."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.environment import ROOT, architecture
from local.errors import LocalError
from local.sam import RUNTIMES

# The client and what it needs, in the versions of the lock.
_CLIENT = ("awslambdaric", "simplejson", "snapshot-restore-py")
_BOOTSTRAP = """\
#!/bin/sh
export AWS_EXECUTION_ENV=AWS_Lambda_{runtime} PYTHONPATH="$LAMBDA_TASK_ROOT:/opt/python:/var/runtime"
exec /usr/bin/{runtime} -m awslambdaric "${{_HANDLER:-$AWS_LAMBDA_FUNCTION_HANDLER}}"
"""
_CHANGES = ["ENV LAMBDA_TASK_ROOT=/var/task", "ENV LAMBDA_RUNTIME_DIR=/var/runtime", "ENV LANG=C.UTF-8"]


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        runtime: the Python in it, by Lambda's name.
    """

    name: str
    runtime: str


def published(runtime: str) -> Image:
    """The image of Lambda itself."""
    return Image(f"public.ecr.aws/lambda/python:{runtime.removeprefix('python')}-{architecture()}", runtime)


def make_image(engine: Any, install: Callable[..., None] | None) -> Image | None:
    """An image made here; None: it cannot be.

    Args:
        install: installs packages of Debian; None: nothing may be installed.
    """
    release = _debian()
    if release is None or os.getuid() != 0 or not sys.platform.startswith("linux"):
        return None
    if shutil.which("debootstrap") is None:
        if install is None:
            return None
        install("debootstrap")
    client = [f"{name}=={importlib.metadata.version(name)}" for name in _CLIENT]
    key = hashlib.sha256("\n".join([release, architecture(), _BOOTSTRAP, *client]).encode()).hexdigest()[:12]
    archive = ROOT / ".build-cache" / f"lambda-image-{key}.tar"
    kept = archive.with_suffix(".runtime")
    if not archive.exists() or not kept.exists():
        archive.parent.mkdir(exist_ok=True)
        kept.write_text(_make(release, client, archive))
    image = Image(f"sluice-lambda:{key}", kept.read_text())
    engine.api.import_image_from_file(str(archive), *image.name.split(":"), changes=_CHANGES)
    return image


def _debian() -> str | None:
    """The name of this release of Debian."""
    try:
        said = Path("/etc/os-release").read_text()
    except OSError:
        return None
    found = re.search(r"^VERSION_CODENAME=(\w+)$", said, re.MULTILINE)
    return found[1] if found and re.search(r"^ID=debian$", said, re.MULTILINE) else None


def _make(release: str, client: list[str], archive: Path) -> str:
    """Make the archive; returns the runtime."""
    print(f"making an image of Debian {release} with Lambda's runtime interface client (a minute)", flush=True)
    with tempfile.TemporaryDirectory(prefix="sluice-image-") as folder:
        files = Path(folder)
        _run("debootstrap", "--variant=minbase", "--include=python3,ca-certificates", release, str(files))
        runtime = (files / "usr/bin/python3").readlink().name
        if runtime not in RUNTIMES:
            raise LocalError(f"Lambda has no {runtime}, the Python of Debian {release}.")
        for name in ("var/runtime", "var/task", "var/rapid"):
            (files / name).mkdir(parents=True)
        version = runtime.removeprefix("python")
        target = ["--target", str(files / "var/runtime"), "--python-version", version, "--only-binary=:all:"]
        _run(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", *target, *client)
        bootstrap = files / "var/runtime/bootstrap"
        bootstrap.write_text(_BOOTSTRAP.format(runtime=runtime))
        bootstrap.chmod(0o755)
        part = archive.with_suffix(".part")
        _run("tar", "-C", folder, "-cf", str(part), ".")
        part.rename(archive)
    return runtime


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise LocalError(f"{Path(command[0]).name} failed:\n{done.stdout.decode(errors='replace')[-2000:]}")
