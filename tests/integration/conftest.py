import sys
from collections.abc import Iterator

import pytest

from tests.support.functions import log_to
from tests.support.service import Service


@pytest.fixture(autouse=True)
def logs_outlive_a_tests_capture() -> Iterator[None]:
    """The logger is made once and would keep the output, closed since, of the test that came first."""
    yield
    log_to(sys.__stdout__)


@pytest.fixture
def service(dsn: str) -> Iterator[Service]:
    service = Service(dsn)
    yield service
    service.close()


@pytest.fixture
def alice(service: Service) -> bytes:
    """The hash of a premium user's key."""
    return service.add_user()
