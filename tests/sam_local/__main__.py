"""`make test-sam-local`: finds or installs a container engine, finds or makes Lambda's image, and runs the tests.

Where an engine is at hand (Docker, or Podman's socket), it is used. In CI, as root on Debian, Docker is installed and
started in a temporary folder. Elsewhere the tests are skipped, and why is said in one line.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound

from local.environment import ROOT
from local.errors import LocalError
from local.processes import Process, wait_until
from local.sam import DEFAULT_RUNTIME
from tests.sam_local.image import Image, make_image, published

_ENGINE_PACKAGES = ("docker.io", "iptables")
_PODMAN = ("/run/podman/podman.sock", f"/run/user/{os.getuid()}/podman/podman.sock")
_ENGINE_SECONDS = 60.0
_PULL_SECONDS = 60


class SkippedError(Exception):
    """There is no engine here, or no image."""


def main() -> int:
    """Run the tests; 0 if they passed, or if they cannot run here, except in CI."""
    try:
        with ExitStack() as opened:
            engine = _engine_at_hand() or opened.enter_context(_own_engine())
            image = _image(engine)
            engine.close()
            command = [sys.executable, "-m", "pytest", "-q", "tests/sam_local"]
            settings = {"SLUICE_SAM_RUNTIME": image.runtime, "SLUICE_SAM_IMAGE": image.name}
            return subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=False).returncode
    except SkippedError as reason:
        print(f"sam local is not tested here: {reason}")
        return 1 if _in_ci() else 0
    except LocalError as failure:
        print(f"test-sam-local: {failure}", file=sys.stderr)
        return 1


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


def _may_install() -> bool:
    return _in_ci() and os.getuid() == 0 and shutil.which("apt-get") is not None


def _engine_at_hand() -> Any:
    """A client of an engine that answers; None: there is none. DOCKER_HOST names it for what is started from here."""
    addresses = (
        [os.environ["DOCKER_HOST"]] if os.environ.get("DOCKER_HOST") else ["", *map("unix://{}".format, _PODMAN)]
    )
    for address in addresses:
        try:
            engine = docker.DockerClient(base_url=address, timeout=10) if address else docker.from_env(timeout=10)
            engine.ping()
        except (DockerException, OSError):
            continue
        if address:
            os.environ["DOCKER_HOST"] = address
        return engine
    return None


@contextmanager
def _own_engine() -> Iterator[Any]:
    """Docker, installed if need be, with its data in a temporary folder."""
    if not _may_install():
        raise SkippedError("no container engine answers (Docker, or Podman's socket; DOCKER_HOST names it).")
    if shutil.which("dockerd") is None or shutil.which("iptables") is None:
        _apt(*_ENGINE_PACKAGES)
    with tempfile.TemporaryDirectory(prefix="sluice-docker-") as folder:
        root = Path(folder)
        address = f"unix://{root}/docker.sock"
        command = ["dockerd", "--data-root", root / "data", "--exec-root", root / "exec", "-H", address]
        process = Process.start(
            "Docker", [*command, "-p", root / "docker.pid"], log=root / "log", env=dict(os.environ), cwd=root
        )
        try:
            os.environ["DOCKER_HOST"] = address
            if not wait_until(lambda: not process.alive or _engine_at_hand() is not None, _ENGINE_SECONDS):
                raise LocalError(f"Docker does not answer:\n{process.log_tail()}")
            if not process.alive:
                raise LocalError(f"Docker did not start:\n{process.log_tail()}")
            yield _engine_at_hand()
        finally:
            process.stop(20)
            del os.environ["DOCKER_HOST"]


def _image(engine: Any) -> Image:
    """An image with Lambda's runtime: the published one where it is or can be had, or one that is made here."""
    image = published(DEFAULT_RUNTIME)
    try:
        engine.images.get(image.name)
        return image
    except ImageNotFound:
        pass
    if (made := make_image(engine, install=_apt if _may_install() else None)) is not None:
        return made
    pulled = subprocess.run(
        ["docker", "pull", "-q", image.name], check=False, capture_output=True, timeout=_PULL_SECONDS
    )
    if pulled.returncode:
        raise SkippedError(
            f"the image {image.name} cannot be pulled, and none can be made (debootstrap, as root on Debian)."
        )
    return image


def _apt(*packages: str) -> None:
    print(f"installing {', '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "-qq", *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    except subprocess.CalledProcessError as error:
        raise LocalError(f"apt-get could not install {', '.join(packages)} (exit code {error.returncode}).") from None


if __name__ == "__main__":
    sys.exit(main())
