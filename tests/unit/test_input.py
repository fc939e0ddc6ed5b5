"""What clients and operators may send, at the limits and beyond them."""

import json
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from sluice.api.native.bodies import GenerateRequest
from sluice.domain.errors import SluiceError
from sluice.domain.history import HistoryQuery
from sluice.domain.parameters import Parameters
from sluice.messaging import QueueMessage
from sluice.services.admin.administer import AdminEvent
from sluice.services.admin.keys import KeyCreate, KeyExpire, KeyNamed, KeyRotate
from sluice.services.admin.maintenance import AuditList
from sluice.services.admin.models import ModelSet
from sluice.services.admin.requests import RequestList, RequestNamed, RequestRedrive
from sluice.services.admin.users import UserCreate, UserList
from sluice.services.tasks.run import TasksEvent
from sluice.validation import parse_json


def refused_at(model: type[BaseModel], body: Any) -> list[str]:
    """The JSON pointers of the findings."""
    with pytest.raises(SluiceError) as caught:
        parse_json(model, body if isinstance(body, str) else json.dumps(body))
    assert caught.value.code == "invalid_input"
    return [finding["pointer"] for finding in caught.value.extra["errors"]]


# GenerateRequest ------------------------------------------------------------------------------------------------------


def test_prompt_is_the_only_required_field() -> None:
    request = parse_json(GenerateRequest, '{"prompt": "hello"}')
    assert request == GenerateRequest(prompt="hello")
    assert (request.model, request.metadata) == (None, None)
    assert request.parameters.model_dump(exclude_none=True) == {}


@pytest.mark.parametrize("name", ["model", "model_id"])
def test_model_can_be_given_under_two_names(name: str) -> None:
    assert parse_json(GenerateRequest, json.dumps({"prompt": "hello", name: "small"})).model == "small"


def test_model_under_both_names_is_refused() -> None:
    assert refused_at(GenerateRequest, {"prompt": "hello", "model": "a", "model_id": "a"}) == [""]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"prompt": ""}, "/prompt"),
        ({"prompt": None}, "/prompt"),
        ({"prompt": 5}, "/prompt"),
        ({"prompt": ["hello"]}, "/prompt"),
        ({"prompt": "a\x00b"}, "/prompt"),
        ({"model": ""}, "/model"),
        ({"model_id": 5}, "/model_id"),
        ({"parameters": None}, "/parameters"),
        ({"parameters": []}, "/parameters"),
        ({"parameters": {"max_new_tokens": 5}}, "/parameters/max_new_tokens"),
        ({"parameters": {"stop": ["a", ""]}}, "/parameters/stop/1"),
        ({"metadata": []}, "/metadata"),
        ({"metadata": {"a": 1}}, "/metadata/a"),
        ({"metadata": {"a": "x" * 513}}, "/metadata/a"),
        ({"metadata": {"a": "\x00"}}, "/metadata/a"),
        ({"metadata": {"k" * 65: "x"}}, "/metadata/" + "k" * 65),
        ({"metadata": {"": "x"}}, "/metadata/"),
        ({"metadata": {"a/b~c": 1}}, "/metadata/a~1b~0c"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "/metadata"),
        ({"priority": 1}, "/priority"),
        ({"x" * 5000: 1}, "/" + "x" * 100),
    ],
)
def test_finding_points_to_the_invalid_value(change: dict[str, Any], pointer: str) -> None:
    assert refused_at(GenerateRequest, {"prompt": "hello"} | change) == [pointer]


def test_metadata_of_the_largest_size_is_accepted() -> None:
    metadata = {f"{n:02}".ljust(64, "k"): "v" * 512 for n in range(16)} | {"00".ljust(64, "k"): ""}
    assert parse_json(GenerateRequest, json.dumps({"prompt": "hello", "metadata": metadata})).metadata == metadata


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ('{"prompt": "a", "prompt": "a"}', "/prompt"),
        ('{"prompt": "a", "pr\\u006fmpt": "b"}', "/prompt"),
        ('{"prompt": "a", "parameters": {"max_tokens": 1, "max_tokens": 1000}}', "/parameters/max_tokens"),
        ('{"prompt": "a", "metadata": {"team": "x", "team": "y"}}', "/metadata/team"),
        ('{"prompt": "a", "parameters": {"seed": 1}, "parameters": {}}', "/parameters"),
    ],
)
def test_member_given_twice_is_refused(body: str, pointer: str) -> None:
    assert refused_at(GenerateRequest, body) == [pointer]


def test_at_most_twenty_findings_are_reported() -> None:
    assert len(refused_at(GenerateRequest, {"prompt": "hello", "a": 1, "b": 2})) == 2
    assert len(refused_at(GenerateRequest, {"prompt": "hello"} | {str(n): n for n in range(50)})) == 20


def test_detail_about_a_text_counts_characters() -> None:
    with pytest.raises(SluiceError) as caught:
        parse_json(GenerateRequest, '{"prompt": ""}')
    assert caught.value.detail == "/prompt: String should have at least 1 character."


# Parameters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", [1, 256, 10**9]),
        ("temperature", [0, 0.0, 1, 1.5, 2, 2.0]),
        ("top_p", [1e-9, 0.5, 1, 1.0]),
        ("stop", [["a"], ["a", "b", "c", "d"], ["x" * 100]]),
        ("seed", [0, 2**31 - 1]),
    ],
)
def test_parameters_within_their_range_are_accepted(name: str, values: list[Any]) -> None:
    for value in values:
        parsed = parse_json(Parameters, json.dumps({name: value}))
        assert parsed.model_dump(exclude_none=True) == {name: value}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # A number too large for PostgreSQL's integer must be refused here: there it would be an internal error.
        ("max_tokens", [0, -1, 10**9 + 1, 2**31, 2**64, 1.0, 1.5, "5", True, []]),
        ("temperature", [-0.000001, 2.000001, 10**30, "1", True, "NaN"]),
        ("top_p", [0, 0.0, -0.5, 1.000001, "1", True]),
        ("seed", [-1, 2**31, 1.0, "5", True]),
        ("stop", [[], ["a"] * 5, 5, {}, True]),
    ],
)
def test_parameters_beyond_their_range_are_refused(name: str, values: list[Any]) -> None:
    for value in values:
        assert refused_at(Parameters, {name: value}) == [f"/{name}"], value


@pytest.mark.parametrize("name", ["temperature", "top_p"])
@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_cannot_hold_are_refused(name: str, word: str) -> None:
    assert refused_at(Parameters, f'{{"{name}": {word}}}') == [f"/{name}"]


def test_single_stop_sequence_needs_no_list() -> None:
    assert parse_json(Parameters, '{"stop": "END"}').stop == ["END"]


@pytest.mark.parametrize("sequence", ["", "x" * 101, "\x00", 5])
def test_invalid_stop_sequence_is_refused(sequence: Any) -> None:
    assert refused_at(Parameters, {"stop": [sequence]}) == ["/stop/0"]


# Identifiers ----------------------------------------------------------------------------------------------------------

USER_IDS = (
    "a",
    "7",
    "a" * 255,
    "anna@example.com",
    "anna+test@example.com",
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "google-oauth2|103547991597142817347",
    "103547991597142817347",
    "00uid4BxXw6I6TV4m0g3",
    "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
    "-_3kzqFVrSaSaFHy782bbtaQ",
    "_3kzqFVrSaSaFHy782bbtaQ-",
    "arn:aws:iam::123456789012:user/division_abc/Anna",
    "us-east-1:12345678-1234-1234-1234-123456790ab",
    "repo:octo-org/octo-repo:environment:prod",
    "system:serviceaccount:default:worker",
    "spiffe://example.org/ns/default/sa/worker",
    "CORP\\anna",
    "CN=Anna,OU=People,O=Example",
    "+491701234567",
    "@anna:example.org",
    "".join(map(chr, range(0x21, 0x7F))),
)


@pytest.mark.parametrize("user_id", USER_IDS)
def test_user_ids_are_what_identity_providers_give(user_id: str) -> None:
    assert parse_json(UserCreate, json.dumps({"user_id": user_id})).user_id == user_id


UNFIT = ("", "a" * 256, " a", "a ", "a b", "a\n", "\na", "a\nb", "a\tb", "a\x00", "a\x7f", "é", "aé", "٣", "a\u200b")


@pytest.mark.parametrize("user_id", UNFIT)
def test_other_user_ids_are_refused(user_id: str) -> None:
    assert refused_at(UserCreate, {"user_id": user_id}) == ["/user_id"]


def test_user_ids_differ_by_case() -> None:
    given = [parse_json(UserCreate, json.dumps({"user_id": each})).user_id for each in ("Anna@x.org", "anna@x.org")]
    assert given == ["Anna@x.org", "anna@x.org"]


@pytest.mark.parametrize(
    "model",
    [
        "a",
        "org/model-1.5_b:2+x",
        "meta-llama/Llama-3.3-70B-Instruct",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-sonnet-20240620-v1:0",
        "a" * 255,
    ],
)
def test_models_have_the_names_of_registries(model: str) -> None:
    assert parse_json(ModelSet, json.dumps(MODEL | {"model_id": model})).model_id == model
    assert parse_json(GenerateRequest, json.dumps({"prompt": "hello", "model": model})).model == model


@pytest.mark.parametrize("model", [*UNFIT, "-a", ".a", "/a", "a,b", "a;b", 'a"b', "=a", "@a"])
def test_other_names_of_models_are_refused(model: str) -> None:
    assert refused_at(ModelSet, MODEL | {"model_id": model}) == ["/model_id"]
    assert refused_at(GenerateRequest, {"prompt": "hello", "model": model}) == ["/model"]


# Ids that this service makes ------------------------------------------------------------------------------------------

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER_SPELLINGS = (
    "",
    ID.upper(),
    ID.replace("-", ""),
    ID.replace("0", "\uff10"),
    "{" + ID + "}",
    "urn:uuid:" + ID,
    " " + ID,
    ID + " ",
    ID + "\n",
    ID + "/",
    "%30" + ID[1:],
    ID[:-1],
    ID + "0",
    ID.replace("-", "_"),
    ID[:8] + ID[9:18] + "-" + ID[18:],
    ID.replace("a", "g"),
)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (KeyNamed, "key_id"),
        (KeyRotate, "key_id"),
        (KeyExpire, "key_id"),
        (RequestNamed, "request_id"),
        (RequestRedrive, "request_id"),
        (RequestList, "before"),
        (AuditList, "request_id"),
        (AuditList, "after"),
        (QueueMessage, "request_id"),
        (HistoryQuery, "cursor"),
    ],
)
def test_an_id_has_one_spelling(model: type[BaseModel], name: str) -> None:
    rest = {"expires_at": None} if model is KeyExpire else {}
    assert getattr(parse_json(model, json.dumps({name: ID} | rest)), name) == UUID(ID)
    for spelling in (*OTHER_SPELLINGS, 5, [ID], True):
        assert refused_at(model, {name: spelling} | rest) == [f"/{name}"], spelling


# What operators send --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("email", ["no-at", "a@", "@b", "a b@c", "a@b\n", "a@b\x00", "a@" + "b" * 253, 5])
def test_email_address_has_two_parts_and_no_space(email: Any) -> None:
    for longest in ("a@b", "a@" + "b" * 252):
        assert parse_json(UserCreate, json.dumps({"user_id": "a", "email": longest})).email == longest
    assert refused_at(UserCreate, {"user_id": "a", "email": email}) == ["/email"]


@pytest.mark.parametrize("name", ["", "x" * 101, "\x00"])
def test_names_are_short_and_storable(name: str) -> None:
    assert refused_at(UserCreate, {"user_id": "a", "name": name}) == ["/name"]
    assert refused_at(KeyCreate, {"user_id": "a", "name": name}) == ["/name"]


def test_position_in_a_list_is_storable() -> None:
    assert refused_at(UserList, {"after": "\x00"}) == ["/after"]


@pytest.mark.parametrize("limit", [0, 1001, True, "5"])
def test_page_has_at_most_a_thousand_rows(limit: Any) -> None:
    assert refused_at(UserList, {"limit": limit}) == ["/limit"]


@pytest.mark.parametrize("scopes", [[], ["admin"], ["submit", "admin"], "submit", None])
def test_unknown_scopes_are_refused(scopes: Any) -> None:
    (pointer,) = refused_at(KeyCreate, {"user_id": "a", "scopes": scopes})
    assert pointer.startswith("/scopes")


def test_expiry_needs_a_time_zone() -> None:
    assert parse_json(KeyCreate, '{"user_id": "a", "expires_at": "2030-01-01T00:00:00+02:00"}').expires_at
    assert refused_at(KeyCreate, {"user_id": "a", "expires_at": "2030-01-01T00:00:00"}) == ["/expires_at"]


MODEL = {"model_id": "small", "backend": "openai", "backend_model": "small-1b", "endpoint": "https://models.example/v1"}


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8080", "https://models.example/v1", "https://a/b/c/"])
def test_valid_endpoints_are_accepted(endpoint: str) -> None:
    assert parse_json(ModelSet, json.dumps(MODEL | {"endpoint": endpoint})).endpoint == endpoint


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"backend": "vertex"}, "/backend"),
        ({"backend_model": ""}, "/backend_model"),
        ({"endpoint": None}, ""),
        ({"endpoint": "models.example"}, "/endpoint"),
        ({"endpoint": "file://etc/passwd"}, "/endpoint"),
        # Credentials belong in a secret.
        ({"endpoint": "https://user:password@models.example"}, "/endpoint"),
        ({"endpoint": "https://models.example/v1?key=5"}, "/endpoint"),
        ({"endpoint": "https://models.example/v1\n"}, "/endpoint"),
        ({"endpoint": "https://models.example/\x00"}, "/endpoint"),
        ({"secret_arn": ""}, "/secret_arn"),
        ({"max_tokens_default": 2000, "max_tokens_limit": 1999}, ""),
        ({"max_tokens_limit": 2**31}, "/max_tokens_limit"),
        ({"overhead_tokens": -1}, "/overhead_tokens"),
        ({"overhead_tokens": 2**31}, "/overhead_tokens"),
        ({"kind": "video"}, "/kind"),
        ({"kind": None}, "/kind"),
        ({"item_tokens": -1}, "/item_tokens"),
        ({"item_tokens": None}, "/item_tokens"),
        ({"image_tokens": -1}, "/image_tokens"),
        ({"image_tokens": 2**31}, "/image_tokens"),
        ({"timeout_seconds": 0}, "/timeout_seconds"),
        ({"timeout_seconds": 901}, "/timeout_seconds"),
        ({"is_default": True, "is_active": False}, ""),
        ({"is_default": 1}, "/is_default"),
        ({"prices": {"prompt": "-1"}}, "/prices/prompt"),
        ({"prices": {"prompt": "NaN"}}, "/prices/prompt"),
        ({"prices": {"prompt": "0.00000000001"}}, "/prices/prompt"),
        ({"prices": {"cached": "1"}}, "/prices/cached"),
    ],
)
def test_model_that_cannot_work_is_refused(change: dict[str, Any], pointer: str) -> None:
    assert refused_at(ModelSet, MODEL | change) == [pointer]


def test_prices_keep_every_digit() -> None:
    prices = parse_json(
        ModelSet, json.dumps(MODEL | {"prices": {"prompt": "0.1", "completion": "2.0000000001"}})
    ).prices
    assert [str(prices.prompt), str(prices.completion)] == ["0.1", "2.0000000001"]


# What functions send each other ----------------------------------------------------------------------------------------


def test_unknown_fields_of_a_message_are_ignored() -> None:
    body = '{"request_id": "01890a5d-ac96-774b-bcce-b302099a8057", "sent_by": "a newer version"}'
    assert str(parse_json(QueueMessage, body).request_id) == "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize("body", [{}, {"request_id": None}, {"request_id": "no"}, {"request_id": 5}, [], "x"])
def test_message_without_an_id_is_unreadable(body: Any) -> None:
    refused_at(QueueMessage, json.dumps(body))


@pytest.mark.parametrize("tasks", [[], ["vacuum"], "usage", None])
def test_unknown_tasks_are_refused(tasks: Any) -> None:
    (pointer,) = refused_at(TasksEvent, {"tasks": tasks})
    assert pointer.startswith("/tasks")


@pytest.mark.parametrize(
    "event", [{}, {"operation": 5}, {"operation": "a", "arguments": []}, {"operation": "a", "x": 1}]
)
def test_administrative_event_has_an_operation_and_arguments(event: Any) -> None:
    assert len(refused_at(AdminEvent, event)) == 1
