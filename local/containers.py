"""Containers on this machine, which cannot reach 127.0.0.1: the address at which they reach the stack, and what listens
there. `sam local` runs the functions in such containers."""

import asyncio
import contextlib
import ipaddress
import threading
from collections.abc import Collection
from concurrent.futures import Future
from functools import partial
from typing import Final

from local.errors import LocalError
from local.ports import LOOPBACK

_CHUNK: Final = 65536


def bridge_address() -> str:
    """The address of this machine in the network of the engine's containers.

    Raises:
        LocalError: no engine answers, or it does not say.
    """
    import docker  # noqa: PLC0415  (takes 200 ms, which only this needs)
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        with contextlib.closing(docker.from_env(timeout=5)) as engine:
            networks = [
                engine.networks.get(name).attrs for name in ("bridge", "podman") if engine.networks.list([name])
            ]
    except (DockerException, OSError) as error:
        raise LocalError(
            "No container engine answers: start Docker or Podman (its socket is named by DOCKER_HOST), or name an "
            f"address at which containers reach this machine: --containers ADDRESS. ({error})"
        ) from None
    for each in (config for network in networks for config in network["IPAM"]["Config"] or ()):
        if gateway := each.get("Gateway"):
            return str(gateway)
        # An engine that names only the network takes its first address.
        return str(next(ipaddress.ip_network(each["Subnet"]).hosts()))
    raise LocalError("The container engine has no bridge network: name an address: --containers ADDRESS.")


class Forwarder:
    """Passes connections to an address on to the same ports of 127.0.0.1.

    So no server of the stack listens where a network could reach it that is not this machine's own. PostgreSQL asks for
    its password whoever connects.

    Args:
        address: one of this machine's.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    def start(self, ports: Collection[int]) -> None:
        """Listen on these ports.

        Raises:
            LocalError: the address is not this machine's, or a port of it is taken.
        """
        listening: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ports, listening)), name="forwarder", daemon=True
        )
        self._thread.start()
        try:
            listening.result()
        except OSError as error:
            self.stop()
            raise LocalError(
                f"Containers cannot be given {self.address} ({error.strerror or error}): name an address of this "
                "machine at which its containers reach it, with --containers ADDRESS."
            ) from None

    def stop(self) -> None:
        """Stop listening, and close all connections. Safe to call again, and if it was not started."""
        if self._thread is None or self._loop is None:
            return
        # Unless it has ended by itself, since it could not listen.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._thread = None

    async def _serve(self, ports: Collection[int], listening: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as servers:
            try:
                for port in ports:
                    await servers.enter_async_context(
                        await asyncio.start_server(partial(_relay, port), self.address, port)
                    )
            except OSError as error:
                listening.set_exception(error)
                return
            listening.set_result(None)
            await self._stopped.wait()
            # Leaving the context waits for connections.
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()


async def _relay(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what a connection and a port of this machine say to each other, until one of them has ended."""
    try:
        there_reader, there_writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            ways = [asyncio.ensure_future(_pass_on(*way)) for way in ((reader, there_writer), (there_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            await _close(there_writer)
    except (OSError, asyncio.CancelledError):
        pass  # nobody listens there, or this is stopped
    finally:
        await _close(writer)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
