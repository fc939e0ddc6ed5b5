"""The short form of the chaos suite: one seed, every kind of fault once, on a stack of its own."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import failure_report
from tests.chaos.campaign import Campaign, Size
from tests.chaos.plan import KINDS

SEED = 1
SIZE = Size(requests=200, faults=1, users=10, clients=4, lines=60)


@pytest.mark.xdist_group("chaos")
def test_nothing_is_lost_duplicated_or_miscounted(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "stack")
    try:
        with campaign:
            report = campaign.run(SEED, SIZE)
        assert not report.wrong, failure_report(report, SIZE)
        assert report.accepted == SIZE.requests
        assert dict(report.faults) == dict.fromkeys(KINDS, SIZE.faults)
        assert report.states["shared"] > 0, "no equal requests: the seed is a bad example"
    finally:
        campaign.stack.destroy()
