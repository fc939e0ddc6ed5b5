from typing import Any

import pytest

from tests.template.stack import SECRET, Stack, read, transform


@pytest.fixture(scope="session")
def source() -> dict[str, Any]:
    """The template as it is written."""
    return read()


@pytest.fixture(scope="session")
def processed() -> dict[str, Any]:
    """The template as CloudFormation gets it."""
    return transform(read())


@pytest.fixture(scope="session")
def created(processed: dict[str, Any]) -> Stack:
    """The stack with the database that the template creates."""
    return Stack.of(processed)


@pytest.fixture(scope="session")
def own(processed: dict[str, Any]) -> Stack:
    """The stack with a bring-your-own database."""
    return Stack.of(processed, DatabaseSecretArn=SECRET)


@pytest.fixture(params=["created", "own"])
def stack(request: pytest.FixtureRequest) -> Stack:
    """Each of both stacks."""
    chosen: Stack = request.getfixturevalue(request.param)
    return chosen
