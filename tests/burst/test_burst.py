"""The short form of `make burst`, without its times: who is held up, who gets in, and that nothing is lost."""

import pytest

from tests.burst.campaign import Campaign, Report, Size

# Few connections and no reserved concurrency, so that the database's limits have to hold.
SIZE = Size(
    at_once=24, seconds=12, wrong_keys=200, concurrency=2, reserved=False, wrong_key_clients=4, honest_seconds=1
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("burst")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    with Campaign(tmp_path_factory.mktemp("burst") / "stack", SIZE) as campaign:
        return campaign.run()


def test_a_burst_does_no_harm(report: Report) -> None:
    """The books are clean, no role exceeds its limit, the owner and `sluice verify` get in, refusals say when to come
    again, and what was accepted is answered."""
    assert report.wrong == []


def test_some_are_accepted_and_the_others_refused_by_the_functions(report: Report) -> None:
    assert report.answers["202 -"] == report.ends["completed"]
    assert report.answers["503 database_unavailable"] > 0
    assert report.most["sluice_submit"] == report.limits["sluice_submit"] == SIZE.concurrency


def test_wrong_keys_are_refused_and_an_honest_client_is_not(report: Report) -> None:
    assert report.wrong_key_answers == {"401 key_unknown": SIZE.wrong_keys}
    assert set(report.honest_answers) == {"200 -"}
