"""Models behind SageMaker's endpoints: set with a mapping, claimed with it, and asked as it says."""

from collections.abc import Callable
from typing import Any

import pytest

from sluice.domain.requests import Claim
from tests.integration.test_worker import deliver, new_worker
from tests.support.functions import administer
from tests.support.sagemaker_backend import TGI, VECTORS, WORDS, generated, sagemaker_at
from tests.support.service import Service
from tests.unit.scripted_server import Reply, ScriptedServer

Admin = Callable[..., Any]
LLAMA: dict[str, Any] = {
    "model_id": "llama",
    "backend": "sagemaker",
    "backend_model": "llama-endpoint",
    "mapping": {"inference_component": "llama-1", **TGI},
}


def problem(**arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = administer("model.set", **arguments)["problem"]
    return found


def test_a_request_is_claimed_with_its_models_mapping(admin: Admin, service: Service, alice: bytes) -> None:
    made = admin("model.set", **LLAMA)
    assert made["mapping"] == LLAMA["mapping"]
    assert made["warnings"] == []
    (listed,) = (model for model in admin("model.list") if model["model_id"] == "llama")
    assert listed["mapping"] == LLAMA["mapping"]
    assert {model["mapping"] is None for model in admin("model.list") if model["model_id"] != "llama"} == {True}

    mapped, other = service.submit(alice, model="llama"), service.submit(alice)
    claims = {claim["request_id"]: claim for claim in service.claim(mapped, other)}
    assert claims[mapped]["mapping"] == LLAMA["mapping"]
    assert (claims[mapped]["backend"], claims[mapped]["backend_model"]) == ("sagemaker", "llama-endpoint")
    assert claims[other]["mapping"] is None


def test_a_waiting_callers_claim_has_the_mapping(admin: Admin, service: Service, alice: bytes) -> None:
    admin("model.set", **LLAMA)
    row = service.rows(
        "SELECT to_jsonb(c) AS claim FROM request_claim(ARRAY[%s::uuid], 60) AS c", service.submit(alice, model="llama")
    )[0]["claim"]
    assert Claim.from_json(row).mapping == LLAMA["mapping"]
    # As it is from a database of before.
    assert Claim.from_json({name: row[name] for name in row if name != "mapping"}).mapping is None


def test_the_worker_asks_and_reads_as_the_mapping_says(admin: Admin, service: Service, alice: bytes) -> None:
    admin("model.set", **LLAMA)
    request_id = service.submit(alice, "hello {{seed}}", model="llama", parameters={"max_tokens": 9})
    with ScriptedServer() as server, sagemaker_at(server.url) as sagemaker:
        server.replies(Reply(body=generated()))
        new_worker(service, {"sagemaker": sagemaker.backend}).work(deliver(request_id))
        (asked,) = server.received
    assert asked.headers["x-amzn-sagemaker-inference-component"] == "llama-1"
    assert asked.json["inputs"] == "hello {{seed}}"
    assert asked.json["parameters"]["max_new_tokens"] == 9
    (row,) = service.rows("SELECT status, prompt_tokens, completion_tokens FROM requests")
    assert (row["status"], row["prompt_tokens"], row["completion_tokens"]) == ("completed", 11, 5)
    assert service.value("SELECT content FROM results") == WORDS


def test_a_mapping_is_changed_and_removed_alone(admin: Admin, service: Service) -> None:
    made = admin("model.set", **LLAMA)
    unlike = {"mapping", "updated_at", "warnings"}
    for mapping in ({"target_variant": "blue"}, None):
        changed = admin("model.set", model_id="llama", mapping=mapping)
        assert changed["mapping"] == mapping
        assert {name: changed[name] for name in changed if name not in unlike} == {
            name: made[name] for name in made if name not in unlike
        }
    assert admin("model.set", model_id="llama", timeout_seconds=50)["mapping"] is None
    rows = service.rows("SELECT before, after FROM audit_log WHERE action = 'model.set' ORDER BY audit_id")
    assert [(row["before"] or {}).get("mapping") for row in rows[-4:]] == [
        None,
        LLAMA["mapping"],
        {"target_variant": "blue"},
        None,
    ]


def test_a_mapping_that_cannot_be_used_is_refused_and_changes_nothing(admin: Admin) -> None:
    admin("model.set", **LLAMA)
    broken = {"request": TGI["request"], "response": TGI["response"] | {"text": "[0].generated_text["}}
    refused = problem(model_id="llama", mapping=broken, timeout_seconds=9)
    assert (refused["code"], refused["errors"][0]["pointer"]) == ("invalid_input", "/mapping")
    assert "response.text is no JMESPath expression" in refused["detail"]
    (now,) = (model for model in admin("model.list") if model["model_id"] == "llama")
    assert (now["mapping"], now["timeout_seconds"]) == (LLAMA["mapping"], 60)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"backend": "bedrock"}, "Only a model of the sagemaker backend has a mapping"),
        ({"endpoint": "https://models.example/v1"}, "has neither endpoint nor secret_arn"),
        ({"secret_arn": "arn:aws:secretsmanager:eu-west-1:1:secret:x"}, "has neither endpoint nor secret_arn"),
        ({"backend_model": "org/llama"}, "must be the name of a SageMaker endpoint"),
        ({"backend_model": "a" * 64}, "must be the name of a SageMaker endpoint"),
        ({"backend_model": "a-"}, "must be the name of a SageMaker endpoint"),
        ({"mapping": VECTORS}, "The mapping is of the other kind"),
        ({"kind": "embedding"}, "The mapping is of the other kind"),
    ],
)
def test_a_model_that_sagemaker_cannot_have_is_refused(admin: Admin, changes: dict[str, Any], detail: str) -> None:
    refused = problem(**LLAMA | changes)
    assert refused["code"] == "invalid_input"
    assert detail in refused["detail"]
    assert "llama" not in {model["model_id"] for model in admin("model.list")}


def test_embeddings_and_targets_alone(admin: Admin) -> None:
    vectors = LLAMA | {"model_id": "vectors", "kind": "embedding", "mapping": VECTORS}
    assert admin("model.set", **vectors)["mapping"] == VECTORS
    for kind in ("chat", "embedding"):
        alone = LLAMA | {"model_id": f"plain-{kind}", "kind": kind, "mapping": {"target_variant": "a"}}
        assert admin("model.set", **alone)["mapping"] == {"target_variant": "a"}


def test_a_model_of_another_backend_becomes_sagemakers(admin: Admin) -> None:
    plain = {"model_id": "m", "backend": "openai", "backend_model": "m", "endpoint": "https://models.example/v1"}
    admin("model.set", **plain)
    assert "has neither endpoint nor secret_arn" in problem(model_id="m", backend="sagemaker")["detail"]
    assert admin("model.set", model_id="m", backend="sagemaker", endpoint=None)["backend"] == "sagemaker"


def test_a_timeout_beyond_sagemakers_is_warned_about(admin: Admin) -> None:
    warning = "SageMaker ends a call after 60 s: more than 70 timeout_seconds have no effect."
    assert admin("model.set", **LLAMA, timeout_seconds=70)["warnings"] == []
    assert admin("model.set", model_id="llama", timeout_seconds=71)["warnings"] == [warning]
