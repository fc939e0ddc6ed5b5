"""Prices that are set with their model."""

from typing import Any

from tests.support.functions import administer
from tests.support.service import Service


def test_an_unchanged_price_is_not_written_again(deploy: Any, service: Service) -> None:
    deploy("admin")
    model = {"model_id": "m", "backend": "bedrock", "backend_model": "m", "prices": {"prompt": "1"}}
    administer("model.set", **model)
    service.owner.execute("UPDATE prices SET valid_from = valid_from - 1")
    administer("model.set", **model | {"prices": {"prompt": "1.0"}})
    administer("model.set", **model | {"prices": {"prompt": "3"}})
    administer("model.set", **model | {"prices": {"prompt": "2"}})
    prices = service.rows("SELECT price_per_million AS p FROM prices WHERE model_id = 'm' ORDER BY valid_from")
    assert [row["p"] for row in prices] == [1, 2], "a day's price may be corrected on that day, and is kept afterwards"
