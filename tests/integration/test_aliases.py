"""Other names of models: set, resolved, listed, removed."""

from collections.abc import Callable
from typing import Any

import pytest

from sluice.db.migrate import SQL
from sluice.db.seed import seed
from sluice.domain.errors import DatabaseError, SluiceError
from tests.support.functions import administer
from tests.support.ledger import SMALL, run_concurrently
from tests.support.service import Service

Admin = Callable[..., Any]
ALIAS = "gpt-4o-mini"


@pytest.fixture
def small(service: Service) -> str:
    """A model beside the shipped one."""
    service.act("model.set", **SMALL)
    return str(SMALL["model_id"])


def refused(operation: str, **arguments: Any) -> tuple[str, int]:
    problem = administer(operation, **arguments)["problem"]
    return problem["code"], problem["status"]


def refusal(service: Service, key: bytes, model: str) -> str:
    with pytest.raises(SluiceError) as raised:
        service.submit(key, model=model)
    return raised.value.code


def test_a_request_for_an_alias_is_of_the_model(service: Service, alice: bytes, small: str) -> None:
    service.act("alias.set", alias=ALIAS, model_id=small)
    request_id = service.submit(alice, model=ALIAS)
    assert service.status(alice, request_id)["model"] == small
    (claim,) = service.ledger("worker").claim([request_id], 30)
    assert claim.model_id == small
    written = service.owner.execute(
        "INSERT INTO submissions (user_id, prompt, model_id) VALUES ('alice', 'hello', %s) RETURNING model_id", [ALIAS]
    )
    assert written.fetchall() == [{"model_id": small}]


def test_an_alias_is_set_moved_listed_and_removed(admin: Admin, service: Service, small: str) -> None:
    assert admin("alias.list") == []
    made = admin("alias.set", alias=ALIAS, model_id="nova-micro")
    assert {name: made[name] for name in ("alias", "model_id", "is_active", "warnings")} == {
        "alias": ALIAS,
        "model_id": "nova-micro",
        "is_active": True,
        "warnings": [],
    }
    assert admin("alias.set", alias=ALIAS, model_id="nova-micro")["warnings"] == []
    moved = admin("alias.set", alias=ALIAS, model_id=small)
    assert moved["warnings"] == [f"Requests for {ALIAS} go to {small} instead of nova-micro."]
    assert [(each["alias"], each["model_id"]) for each in admin("alias.list")] == [(ALIAS, small)]
    removed = admin("alias.remove", alias=ALIAS)
    assert removed["model_id"] == small
    assert admin("alias.list") == []
    rows = service.rows("SELECT action, before, after FROM audit_log WHERE action LIKE 'alias.%%' ORDER BY audit_id")
    assert [row["action"] for row in rows] == ["alias.set", "alias.set", "alias.set", "alias.removed"]
    assert [(row["before"] or {}).get("model_id") for row in rows] == [None, "nova-micro", "nova-micro", small]
    assert [(row["after"] or {}).get("model_id") for row in rows] == ["nova-micro", "nova-micro", small, None]


def test_no_name_is_both_a_models_and_an_alias(admin: Admin, small: str) -> None:
    admin("alias.set", alias=ALIAS, model_id=small)
    assert refused("alias.set", alias=small, model_id="nova-micro") == ("name_taken", 409)
    assert refused("alias.set", alias=small, model_id=small) == ("name_taken", 409)
    assert refused("model.set", model_id=ALIAS, backend="bedrock", backend_model="x") == ("name_taken", 409)
    admin("model.set", model_id=small, is_active=False)
    assert refused("alias.set", alias=small, model_id="nova-micro") == ("name_taken", 409)


def test_an_alias_needs_a_model_that_is_offered(admin: Admin, small: str) -> None:
    admin("alias.set", alias=ALIAS, model_id=small)
    assert refused("alias.set", alias="other", model_id=ALIAS) == ("model_unknown", 422)
    assert refused("alias.set", alias="other", model_id="no-such-model") == ("model_unknown", 422)
    admin("model.set", model_id=small, is_active=False)
    assert refused("alias.set", alias="other", model_id=small) == ("model_unknown", 422)
    assert refused("alias.remove", alias="other") == ("alias_unknown", 404)


def test_the_alias_of_an_inactive_model_means_nothing(service: Service, alice: bytes, small: str) -> None:
    service.act("alias.set", alias=ALIAS, model_id=small)
    off = service.act("model.set", model_id=small, is_active=False)
    assert off["warnings"] == [f"Requests for its other names are refused too: {ALIAS}."]
    assert refusal(service, alice, ALIAS) == "model_unknown"
    assert [model["aliases"] for model in service.models(alice)["models"]] == [[]]
    service.act("model.set", model_id=small, is_active=True)
    service.submit(alice, model=ALIAS)
    service.act("alias.remove", alias=ALIAS)
    assert refusal(service, alice, ALIAS) == "model_unknown"


def test_models_are_shown_with_their_aliases(service: Service, alice: bytes, small: str) -> None:
    for alias in ("gpt-4o-mini", "gpt-4", "a"):
        service.act("alias.set", alias=alias, model_id=small)
    shown = {model["model"]: model["aliases"] for model in service.models(alice)["models"]}
    assert shown == {"nova-micro": [], small: ["a", "gpt-4", "gpt-4o-mini"]}


def test_a_name_that_is_given_twice_at_once_is_given_once(service: Service, small: str) -> None:
    model = {"model_id": ALIAS, "backend": "bedrock", "backend_model": "x"}

    def give(is_alias: bool) -> str:
        try:
            if is_alias:
                service.act("alias.set", alias=ALIAS, model_id=small)
            else:
                service.act("model.set", **model)
        except DatabaseError as error:
            return str(error.constraint)
        return "done"

    assert sorted(map(str, run_concurrently([lambda: give(True), lambda: give(False)]))) == ["done", "name_taken"]


def test_a_shipped_model_leaves_an_alias_its_name(service: Service, small: str) -> None:
    service.owner.execute("DELETE FROM prices WHERE model_id = 'nova-micro'; DELETE FROM models WHERE is_default")
    service.act("alias.set", alias="nova-micro", model_id=small)
    seed(service.owner, SQL / "seed")
    assert [row["model_id"] for row in service.rows("SELECT model_id FROM models")] == [small]
