"""The AWS emulator as a process: crashes and snapshots."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.emulator import Emulator
from local.errors import LocalError


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Callable[..., Emulator]]:
    """Creates emulators and stops them after the test."""
    made: list[Emulator] = []

    def make(**options: bool) -> Emulator:
        emulator = Emulator(tmp_path / "ministack.log", tmp_path / "scratch", **options)
        made.append(emulator)
        return emulator

    yield make
    for emulator in made:
        emulator.stop()


def test_restart_restores_the_snapshot_and_loses_messages(emulator: Callable[..., Emulator]) -> None:
    account = emulator(snapshots=True)
    account.launch()
    account.wait_ready()
    queues = account.client("sqs")
    url = queues.create_queue(QueueName="kept")["QueueUrl"]
    first = account.snapshot()
    queues.send_message(QueueUrl=url, MessageBody="lost")
    queues.create_queue(QueueName="lost")
    address = account.url

    for _ in range(2):
        before, after = account.process, account.restart()

        assert before is not None
        assert not before.alive
        assert after.alive
        assert after is account.process
        assert account.url == address
        assert queues.list_queues()["QueueUrls"] == [url]
        assert "Messages" not in queues.receive_message(QueueUrl=url)
    assert not first.alive


def test_restart_needs_snapshots(emulator: Callable[..., Emulator]) -> None:
    account = emulator()
    for act in (account.snapshot, account.restart):
        with pytest.raises(LocalError, match="no snapshot"):
            act()
