"""Reserved concurrency: made where the account's quota allows, told in a sentence, never the end of a deployment."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from sluice import bootstrap
from sluice.concurrency import reserve_if_possible
from tests.support.functions import Context, load

WANTED = {"sluice-submit": 20, "sluice-status": 20, "sluice-worker": 5}


class Account:
    """Lambda's side of an account: a quota, reservations by function, and the rule that 100 stay unreserved."""

    def __init__(self, quota: int, **reserved: int) -> None:
        self.quota = quota
        self.reserved = {f"sluice-{name}": number for name, number in reserved.items()}
        self.refuses: str | None = None

    def get_account_settings(self) -> dict[str, Any]:
        self._may("GetAccountSettings")
        unreserved = self.quota - sum(self.reserved.values())
        return {"AccountLimit": {"ConcurrentExecutions": self.quota, "UnreservedConcurrentExecutions": unreserved}}

    def get_function_concurrency(self, FunctionName: str) -> dict[str, Any]:  # noqa: N803 - as boto3 calls it
        self._may("GetFunctionConcurrency")
        number = self.reserved.get(FunctionName)
        return {} if number is None else {"ReservedConcurrentExecutions": number}

    def put_function_concurrency(self, FunctionName: str, ReservedConcurrentExecutions: int) -> None:  # noqa: N803
        self._may("PutFunctionConcurrency")
        others = sum(number for name, number in self.reserved.items() if name != FunctionName)
        if self.quota - others - ReservedConcurrentExecutions < 100:
            raise ClientError({"Error": {"Code": "InvalidParameterValueException"}}, "PutFunctionConcurrency")
        self.reserved[FunctionName] = ReservedConcurrentExecutions

    def delete_function_concurrency(self, FunctionName: str) -> None:  # noqa: N803
        self._may("DeleteFunctionConcurrency")
        self.reserved.pop(FunctionName, None)

    def _may(self, action: str) -> None:
        if self.refuses == "everything":
            raise EndpointConnectionError(endpoint_url="https://lambda.example")
        if self.refuses == action:
            raise ClientError({"Error": {"Code": "AccessDeniedException"}}, action)


@pytest.mark.parametrize("quota", [145, 1000])
def test_what_the_quota_holds_is_reserved(quota: int) -> None:
    account = Account(quota)
    sentence = reserve_if_possible(account, WANTED)
    assert account.reserved == WANTED
    told = "sluice-submit 20, sluice-status 20, sluice-worker 5"
    assert sentence == f"Reserved concurrency: {told}; the account's quota is {quota}."


@pytest.mark.parametrize(("quota", "other"), [(10, 0), (144, 0), (1000, 856)])
def test_what_it_does_not_hold_is_not_and_the_sentence_says_why(quota: int, other: int) -> None:
    account = Account(quota, other=other) if other else Account(quota)
    before = dict(account.reserved)
    sentence = reserve_if_possible(account, WANTED)
    assert account.reserved == before
    assert sentence == (
        f"No concurrency is reserved: that would take 45 and leave 100, and {quota - other} of the account's quota of "
        f"{quota} are free. Ask AWS to raise the quota and deploy again."
    )


def test_a_second_deployment_counts_its_own_reservations_once() -> None:
    account = Account(145)
    reserve_if_possible(account, WANTED)
    assert reserve_if_possible(account, WANTED).startswith("Reserved")
    moved = {"sluice-submit": 5, "sluice-status": 35, "sluice-worker": 5}
    assert reserve_if_possible(account, moved).startswith("Reserved")
    assert account.reserved == moved
    account.quota = 120
    assert reserve_if_possible(account, moved).startswith("No concurrency")
    assert account.reserved == {}


@pytest.mark.parametrize("refuses", ["GetAccountSettings", "GetFunctionConcurrency", "PutFunctionConcurrency"])
def test_what_lambda_refuses_does_not_end_the_deployment(refuses: str) -> None:
    account = Account(1000)
    account.refuses = refuses
    assert reserve_if_possible(account, WANTED) == (
        "Concurrency could not be reserved: Lambda answered AccessDeniedException. Deploy again to try again."
    )
    assert account.reserved == {}


def test_what_an_earlier_deployment_reserved_survives_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account(1000, submit=20)
    put, refused = account.put_function_concurrency, "sluice-worker"

    def refuse_one(FunctionName: str, ReservedConcurrentExecutions: int) -> None:  # noqa: N803
        if FunctionName == refused:
            raise ClientError({"Error": {"Code": "TooManyRequestsException"}}, "PutFunctionConcurrency")
        put(FunctionName, ReservedConcurrentExecutions)

    monkeypatch.setattr(account, "put_function_concurrency", refuse_one)
    assert "TooManyRequestsException" in reserve_if_possible(account, WANTED)
    assert account.reserved == {"sluice-submit": 20}


def test_a_lambda_that_cannot_be_reached_does_not_end_the_deployment() -> None:
    account = Account(1000)
    account.refuses = "everything"
    assert "Lambda answered EndpointConnectionError." in reserve_if_possible(account, WANTED)


# The custom resource -----------------------------------------------------------------------------------------------


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    account = Account(1000)
    monkeypatch.setattr(bootstrap, "lambda_client", lambda: account)
    return account


def request(kind: str, mode: str, before: str | None = None) -> dict[str, Any]:
    """What CloudFormation sends; numbers arrive as text."""
    reservations = [{"Function": name, "Environments": str(number)} for name, number in WANTED.items()]
    event = {
        "RequestType": kind,
        "ResourceType": "Custom::Concurrency",
        "ResourceProperties": {"Mode": mode, "Reservations": reservations},
    }
    return event | ({"OldResourceProperties": {"Mode": before}} if before else {})


def answer(event: dict[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = load("admin.migrate").handler(json.loads(json.dumps(event)), Context())
    assert report["Status"] == "SUCCESS"
    return report


def test_auto_reserves_and_its_end_gives_back(account: Account) -> None:
    report = answer(request("Create", "auto"))
    assert account.reserved == WANTED
    assert report["Data"]["Sentence"].startswith("Reserved concurrency: sluice-submit 20")
    answer(request("Update", "false", before="auto"))
    assert account.reserved == {}
    answer(request("Update", "auto", before="false"))
    assert account.reserved == WANTED
    answer(request("Delete", "auto"))
    assert account.reserved == {}


@pytest.mark.parametrize(("mode", "before"), [("true", "auto"), ("true", "false"), ("false", "true")])
def test_in_the_other_modes_cloudformation_does_it(account: Account, mode: str, before: str) -> None:
    account.reserved = {"sluice-submit": 20}
    report = answer(request("Update", mode, before))
    assert account.reserved == {"sluice-submit": 20}
    assert report["Data"]["Sentence"] == f"ReserveConcurrency is {mode}."


def test_a_stack_can_be_deleted_when_its_functions_are_gone(account: Account) -> None:
    account.refuses = "DeleteFunctionConcurrency"
    answer(request("Delete", "auto"))
