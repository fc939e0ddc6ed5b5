"""Values in the template that depend on other values."""

import re
from typing import Any

import pytest

from sluice.db.connection_limits import OWNER_CONNECTIONS, RESERVE, ConnectionLimits, connection_limits
from tests.template.stack import FUNCTIONS, ROOT, Stack


def test_visibility_timeout_is_six_times_the_workers_timeout(source: dict[str, Any]) -> None:
    timeouts = source["Mappings"]["WorkerTimeouts"]
    assert list(timeouts) == source["Parameters"]["WorkerTimeout"]["AllowedValues"]
    for timeout, derived in timeouts.items():
        assert derived["VisibilityTimeout"] == 6 * int(timeout)


def test_queue_and_worker_timeouts_share_a_parameter(stack: Stack) -> None:
    queue = stack.resources["RequestQueue"]["Properties"]
    worker = stack.resources["WorkerFunction"]["Properties"]
    assert worker["Timeout"] == {"Ref": "WorkerTimeout"}
    assert queue["VisibilityTimeout"] == {
        "Fn::FindInMap": ["WorkerTimeouts", {"Ref": "WorkerTimeout"}, "VisibilityTimeout"]
    }


def test_dead_letters_are_kept_longer_than_messages(stack: Stack) -> None:
    queue = stack.resources["RequestQueue"]["Properties"]
    dead_letters = stack.resources["DeadLetterQueue"]["Properties"]
    assert dead_letters["MessageRetentionPeriod"] > queue["MessageRetentionPeriod"]
    # Five deliveries of six timeouts each end long before the queue's retention does.
    longest = max(stack.template["Mappings"]["WorkerTimeouts"][key]["VisibilityTimeout"] for key in ("900",))
    assert queue["RedrivePolicy"]["maxReceiveCount"] * longest < queue["MessageRetentionPeriod"]


def test_redrive_policies_name_the_queues(stack: Stack) -> None:
    queue = stack.resources["RequestQueue"]["Properties"]
    allowed = stack.resources["DeadLetterQueue"]["Properties"]["RedriveAllowPolicy"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}
    assert allowed["redrivePermission"] == "byQueue"
    (arn,) = allowed["sourceQueueArns"]
    assert arn["Fn::Sub"].endswith(":" + queue["QueueName"]["Fn::Sub"])


@pytest.fixture
def environments(processed: dict[str, Any]) -> dict[str, int]:
    """Environments of each function at once by default, each with one connection."""
    functions = Stack.of(processed, ReserveConcurrency="true").of_type("AWS::Lambda::Function")
    found = {}
    for name in FUNCTIONS:
        if name == "Migrate":
            found[name] = 1  # CloudFormation calls it once per deployment
            continue
        most = functions[f"{name}Function"].get("ReservedConcurrentExecutions")
        assert most is not None, f"{name} has no reservation, so it could take any number of connections"
        found[name] = int(processed["Parameters"][most["Ref"]]["Default"] if isinstance(most, dict) else most)
    return found


def test_connections_fit_every_database_class(source: dict[str, Any], environments: dict[str, int]) -> None:
    classes = source["Mappings"]["DatabaseClasses"]
    assert list(classes) == source["Parameters"]["DatabaseClass"]["AllowedValues"]
    for name, derived in classes.items():
        assert sum(environments.values()) <= int(derived["MaxConnections"]) - RESERVE, name


def test_connection_counts_are_the_same_in_template_and_docs(environments: dict[str, int]) -> None:
    text = re.sub(r"\s+#\s+", " ", (ROOT / "template.yaml").read_text())
    terms = " + ".join(f"{name.lower()} {number}" for name, number in environments.items())
    total = sum(environments.values())
    assert f"{terms} = {total} by default, under 100 less a reserve of {RESERVE}" in text
    operations = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert f"By default that makes {total}: {terms}." in operations


# The limits that the migration sets ----------------------------------------------------------------------------------


def limits(stack: Stack, max_connections: int) -> ConnectionLimits:
    """What the migration of a stack gives each role on a server with so many connections."""
    variables = stack.variables("MigrateFunction")
    concurrency = {name: int(stack.parameters[variables[f"{name.upper()}_CONCURRENCY"]["Ref"]]) for name in CONCURRENT}
    return connection_limits(**concurrency, max_connections=max_connections)


CONCURRENT = ("submit", "status", "openai", "worker")


def test_limits_of_the_roles_fit_every_database_class(created: Stack, source: dict[str, Any]) -> None:
    for name, derived in source["Mappings"]["DatabaseClasses"].items():
        most = int(derived["MaxConnections"])
        given = limits(created, most)
        assert given.limits == given.wanted, name
        assert sum(given.limits.values()) + OWNER_CONNECTIONS + RESERVE <= most, name


def test_an_own_database_needs_as_many_connections_as_the_docs_say(own: Stack) -> None:
    """All functions log in as one user there; the limits are the same."""
    found = re.search(
        r"`max_connections` must be at least (\d+)", " ".join((ROOT / "docs/setup.md").read_text().split())
    )
    assert found is not None
    least = int(found[1])
    given = limits(own, least)
    assert given.limits == given.wanted
    assert limits(own, least - 1).limits != given.limits


def test_every_role_that_a_function_logs_in_as_has_a_limit(stack: Stack, source: dict[str, Any]) -> None:
    users = {row["DatabaseUser"] for row in source["Mappings"]["Functions"].values()}
    assert set(limits(stack, 100).limits) == users - {"sluice_owner"}


def test_limits_are_never_below_the_environments(stack: Stack, environments: dict[str, int]) -> None:
    given = limits(stack, 100).limits
    for name, number in environments.items():
        if name != "Migrate":
            assert given[f"sluice_{name.lower()}"] >= number, name


def test_limits_are_the_same_in_template_and_docs(stack: Stack) -> None:
    given = {role.removeprefix("sluice_"): limit for role, limit in limits(stack, 100).limits.items()}
    terms = " + ".join(f"{name} {limit}" for name, limit in [*given.items(), ("migrate", OWNER_CONNECTIONS)])
    text = re.sub(r"\s+#\s+", " ", (ROOT / "template.yaml").read_text())
    assert f"{terms} = {sum(given.values()) + OWNER_CONNECTIONS}." in text
    operations = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert f"{terms} = {sum(given.values()) + OWNER_CONNECTIONS}." in operations


def test_whatever_changes_the_limits_runs_the_migration(stack: Stack) -> None:
    schema = stack.resources["Schema"]["Properties"]
    variables = stack.variables("MigrateFunction")
    assert schema["Capacity"] == [
        *(variables[f"{name.upper()}_CONCURRENCY"] for name in CONCURRENT),
        {"Ref": "DatabaseClass"},
    ]


# Reserved concurrency ------------------------------------------------------------------------------------------------


def test_auto_reserves_for_what_follows_the_traffic(processed: dict[str, Any]) -> None:
    auto, held = Stack.of(processed), Stack.of(processed, ReserveConcurrency="true").of_type("AWS::Lambda::Function")
    assert auto.parameters["ReserveConcurrency"] == "auto"
    asked = auto.resources["Concurrency"]["Properties"]["Reservations"]
    assert {each["Function"]["Ref"]: each["Environments"] for each in asked} == {
        f"{name.capitalize()}Function": held[f"{name.capitalize()}Function"]["ReservedConcurrentExecutions"]
        for name in (*CONCURRENT, "foreground")
    }
    assert auto.resources["Concurrency"]["DependsOn"] == "MigratePolicy"
    operations = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    total = sum(int(auto.parameters[each["Environments"]["Ref"]]) for each in asked)
    assert f"exceeds the sum ({total} by default) by the 100 that Lambda keeps" in operations


def test_reserved_concurrency_is_a_choice(processed: dict[str, Any]) -> None:
    concurrency = "ReservedConcurrentExecutions"
    free = Stack.of(processed).of_type("AWS::Lambda::Function")
    held = Stack.of(processed, ReserveConcurrency="true").of_type("AWS::Lambda::Function")
    assert not [name for name, function in free.items() if concurrency in function]
    assert {name: function[concurrency] for name, function in held.items() if concurrency in function} == {
        "SubmitFunction": {"Ref": "SubmitConcurrency"},
        "StatusFunction": {"Ref": "StatusConcurrency"},
        "OpenaiFunction": {"Ref": "OpenaiConcurrency"},
        "WorkerFunction": {"Ref": "WorkerConcurrency"},
        # One for each that waits.
        "ForegroundFunction": {"Ref": "OpenaiConcurrency"},
        "WebhooksFunction": 2,
        "BatchesFunction": 2,
        "RollupFunction": 2,
        "AdminFunction": 2,
    }


def test_every_parameter_is_described_and_bounded(source: dict[str, Any]) -> None:
    for name, parameter in source["Parameters"].items():
        assert parameter.get("Description"), name
        if parameter["Type"] == "Number":
            assert "AllowedValues" in parameter or {"MinValue", "MaxValue"} <= set(parameter), name


def test_every_parameter_is_in_a_group_of_the_form(source: dict[str, Any]) -> None:
    groups = source["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(source["Parameters"])
