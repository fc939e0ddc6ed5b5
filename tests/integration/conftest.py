from collections.abc import Iterator

import pytest

from tests.support.service import Service


@pytest.fixture
def service(dsn: str) -> Iterator[Service]:
    service = Service(dsn)
    yield service
    service.close()


@pytest.fixture
def alice(service: Service) -> bytes:
    """The hash of a premium user's key."""
    return service.add_user()
