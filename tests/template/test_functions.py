"""Functions: their logs, environment, events and the layer under them."""

import json
import re
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from sluice.config import Settings
from sluice.db.connection_limits import BATCHES_CONNECTIONS, WEBHOOKS_CONNECTIONS
from sluice.posting import POST_SECONDS
from sluice.services.batch_work import WRITE_SECONDS
from sluice.services.deliver import SEND_SECONDS
from tests.support.service import ROLES
from tests.template.stack import FUNCTIONS, OUTSIDE, ROOT, Stack, handlers

# Read by libraries, not by sluice.config.
LIBRARY_VARIABLES = re.compile(r"^(POWERTOOLS_\w+|AWS_USE_DUALSTACK_ENDPOINT)$")
# Set by Lambda itself.
LAMBDA_VARIABLES = {"AWS_REGION"}


def test_mapping_loops_outputs_and_folders_name_the_same_functions(stack: Stack) -> None:
    template = yaml_parse((ROOT / "template.yaml").read_text())
    for loop in [body for key, body in template["Resources"].items() if key.startswith("Fn::ForEach::")]:
        assert loop[1] == FUNCTIONS
    every = [*FUNCTIONS, OUTSIDE]
    assert set(stack.of_type("AWS::Lambda::Function")) == {f"{name}Function" for name in every}
    named = {name.removesuffix("FunctionName"): output["Value"] for name, output in stack.template["Outputs"].items()}
    assert {name: named.get(name) for name in every} == {name: {"Ref": f"{name}Function"} for name in every}
    folders = {path.name for path in (ROOT / "functions").iterdir() if path.is_dir()}
    assert {folder for folder, _ in handlers().values()} == folders


def test_mapping_and_roles_file_name_the_same_users(source: dict[str, Any]) -> None:
    roles = {f"sluice_{role}" for role in ROLES}
    rows = source["Mappings"]["Functions"]
    assert {row["DatabaseUser"] for row in rows.values()} == roles | {"sluice_owner"}
    assert {name: row["Name"] for name, row in rows.items()} == {name: name.lower() for name in FUNCTIONS}


@pytest.mark.parametrize("name", [*FUNCTIONS, OUTSIDE])
def test_a_function_is_named_after_the_stack_and_itself(stack: Stack, name: str) -> None:
    function = stack.resources[f"{name}Function"]["Properties"]
    assert function["FunctionName"] == {"Fn::Sub": f"${{AWS::StackName}}-{name.lower()}"}
    assert function["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}
    assert function["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] == name.lower()


@pytest.mark.parametrize("name", [*FUNCTIONS, OUTSIDE])
def test_a_function_has_a_log_group_with_retention(stack: Stack, name: str) -> None:
    group = stack.resources[f"{name}Logs"]["Properties"]
    logging = stack.resources[f"{name}Function"]["Properties"]["LoggingConfig"]
    assert group["LogGroupName"] == {"Fn::Sub": f"/aws/lambda/${{AWS::StackName}}-{name.lower()}"}
    assert logging["LogGroup"] == {"Ref": f"{name}Logs"}
    assert logging["LogFormat"] == "JSON"


def test_every_log_group_has_retention(stack: Stack) -> None:
    groups = stack.of_type("AWS::Logs::LogGroup")
    assert len(groups) == len(FUNCTIONS) + 2  # and of the one outside, and the API's access log
    for group in groups.values():
        assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def test_the_environment_matches_the_configuration(created: Stack, own: Stack) -> None:
    written = {
        name
        for stack in (created, own)
        for function in stack.of_type("AWS::Lambda::Function")
        for name in stack.variables(function)
        if not LIBRARY_VARIABLES.match(name)
    }
    assert written == {field.upper() for field in Settings.model_fields} - LAMBDA_VARIABLES


def test_parameters_and_configuration_have_the_same_defaults(created: Stack) -> None:
    for function in created.of_type("AWS::Lambda::Function"):
        for name, value in created.variables(function).items():
            field = Settings.model_fields.get(name.lower())
            if field and isinstance(value, dict) and value.get("Ref") in created.parameters:
                default = created.parameters[value["Ref"]]
                if isinstance(field.default, bool):
                    assert default == str(field.default).lower(), name
                    continue
                assert float(default) == float(field.default), name


def test_no_variable_holds_a_secret(source: dict[str, Any]) -> None:
    parameters = source["Parameters"]
    assert not [name for name in parameters if re.search(r"password|token", name, re.IGNORECASE)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_database_is_named_by_address_or_by_secret(created: Stack, own: Stack, name: str) -> None:
    address = {"DATABASE_HOST", "DATABASE_PORT", "DATABASE_NAME"}
    by_address = created.variables(f"{name}Function")
    by_secret = own.variables(f"{name}Function")
    assert address <= set(by_address)
    assert "DATABASE_SECRET_ARN" not in by_address
    assert "DATABASE_SECRET_ARN" in by_secret
    assert not address & set(by_secret)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_in_a_network_only_with_the_created_database(created: Stack, own: Stack, name: str) -> None:
    network = created.resources[f"{name}Function"]["Properties"]["VpcConfig"]
    assert network["SubnetIds"] == [{"Ref": "SubnetA"}, {"Ref": "SubnetB"}]
    assert network["Ipv6AllowedForDualStack"] is True
    assert "VpcConfig" not in own.resources[f"{name}Function"]["Properties"]


def test_functions_and_layer_have_the_same_architecture(stack: Stack) -> None:
    (layer,) = stack.of_type("AWS::Lambda::LayerVersion").values()
    assert layer["CompatibleArchitectures"] == [{"Ref": "Architecture"}]
    for function in stack.of_type("AWS::Lambda::Function").values():
        assert function["Architectures"] == [{"Ref": "Architecture"}]
        assert [function["Runtime"]] == layer["CompatibleRuntimes"]


# Who reads what a function writes, and so is updated before it.
READERS = {
    "Submit": ["WorkerFunction"],
    "Openai": ["WorkerFunction"],
    "Worker": ["StatusFunction"],
    "Foreground": ["StatusFunction"],
}


def test_functions_wait_for_the_schema_and_the_schema_follows_the_layer(stack: Stack) -> None:
    (layer,) = stack.of_type("AWS::Lambda::LayerVersion")
    schema = stack.resources["Schema"]["Properties"]
    assert schema["ServiceToken"] == {"Fn::GetAtt": ["MigrateFunction", "Arn"]}
    assert schema["LayerVersion"] == {"Ref": layer}
    for name in FUNCTIONS:
        depends = stack.resources[f"{name}Function"].get("DependsOn")
        # And for what its role allows beyond what every role does: Lambda asks at once whether a worker may read the queue.
        assert ([depends] if isinstance(depends, str) else depends) == (
            ["Schema", *stack.policies(f"{name}Role"), *READERS.get(name, ())] if name != "Migrate" else None
        )


def test_cloudformation_waits_longer_than_the_migration_may_take(stack: Stack) -> None:
    timeout = stack.resources["MigrateFunction"]["Properties"]["Timeout"]
    assert timeout < stack.resources["Schema"]["Properties"]["ServiceTimeout"] <= 3600


def test_the_migration_is_not_deployed_gradually(stack: Stack, source: dict[str, Any]) -> None:
    for kind in ("AWS::Lambda::Alias", "AWS::Lambda::Version"):
        for resource in stack.of_type(kind).values():
            assert resource["FunctionName"] != {"Ref": "MigrateFunction"}
    assert "AutoPublishAlias" not in source["Globals"]["Function"]
    assert "AutoPublishAlias" not in source["Resources"]["MigrateFunction"]["Properties"]


def test_routes(processed: dict[str, Any]) -> None:
    paths = processed["Resources"]["Api"]["Properties"]["Body"]["paths"]
    routes = {
        f"{method.upper()} {path}": operation["x-amazon-apigateway-integration"]
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert set(routes) == {
        "POST /generate",
        "POST /requests/{request_id}/cancel",
        "GET /status/{request_id}",
        "GET /results/{request_id}",
        "POST /quote",
        "DELETE /cache",
        "GET /requests",
        "GET /usage",
        "GET /models",
        "GET /health",
        "GET /openapi.json",
        "X-AMAZON-APIGATEWAY-ANY-METHOD /v1/{proxy+}",
    }
    for route, integration in routes.items():
        function = "StatusFunction" if route.startswith("GET ") else "SubmitFunction"
        if "/v1/" in route:
            function = "OpenaiFunction"
        assert f"/${{{function}Aliaslive}}/" in json.dumps(integration["uri"])
        assert integration["payloadFormatVersion"] == "2.0"


def test_the_api_timeout_exceeds_the_functions(processed: dict[str, Any], created: Stack) -> None:
    paths = processed["Resources"]["Api"]["Properties"]["Body"]["paths"]
    for operations in paths.values():
        for operation in operations.values():
            limit = operation["x-amazon-apigateway-integration"]["timeoutInMillis"]
            assert limit >= 1000 * created.resources["SubmitFunction"]["Properties"]["Timeout"]
            assert limit <= 30000


def test_the_access_log_is_json_without_headers(stack: Stack) -> None:
    (stage,) = stack.of_type("AWS::ApiGatewayV2::Stage").values()
    entry = json.loads(stage["AccessLogSettings"]["Format"])
    assert not [value for value in entry.values() if "header" in value.lower() or "authorizer" in value.lower()]
    assert {"ThrottlingRateLimit", "ThrottlingBurstLimit"} <= set(stage["DefaultRouteSettings"])


def test_the_worker_takes_batches_and_reports_what_failed(stack: Stack) -> None:
    mappings = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    (mapping,) = [each for each in mappings if each["FunctionName"] == {"Ref": "WorkerFunction"}]
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["RequestQueue", "Arn"]}
    assert mapping["BatchSize"] == 10
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "WorkerConcurrency"}}


def test_webhooks_are_woken_up_by_a_queue_of_their_own(stack: Stack) -> None:
    mappings = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    (mapping,) = [each for each in mappings if each["FunctionName"] == {"Ref": "WebhooksFunction"}]
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["WebhookQueue", "Arn"]}
    function = stack.resources["WebhooksFunction"]["Properties"]
    # As many as may be connected to the database.
    assert mapping["ScalingConfig"]["MaximumConcurrency"] == WEBHOOKS_CONNECTIONS
    queue = stack.resources["WebhookQueue"]["Properties"]
    assert queue["VisibilityTimeout"] == 6 * function["Timeout"] <= queue["MessageRetentionPeriod"]


def test_batches_are_worked_on_when_a_queue_of_their_own_says_so(stack: Stack) -> None:
    mappings = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    (mapping,) = [each for each in mappings if each["FunctionName"] == {"Ref": "BatchesFunction"}]
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["BatchQueue", "Arn"]}
    function = stack.resources["BatchesFunction"]["Properties"]
    assert mapping["ScalingConfig"]["MaximumConcurrency"] == BATCHES_CONNECTIONS
    queue = stack.resources["BatchQueue"]["Properties"]
    assert queue["VisibilityTimeout"] == 6 * function["Timeout"] <= queue["MessageRetentionPeriod"]
    # Whoever begins to write files has half of the time left at least.
    assert function["Timeout"] / 2 >= WRITE_SECONDS


def test_what_sends_webhooks_reaches_nothing_inside(created: Stack, own: Stack) -> None:
    for stack in (created, own):
        function = stack.resources[f"{OUTSIDE}Function"]["Properties"]
        assert "VpcConfig" not in function
        assert not [name for name in stack.variables(f"{OUTSIDE}Function") if name.startswith("DATABASE")]
        (statement,) = stack.statements(f"{OUTSIDE}Role")
        assert statement["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
        assert statement["Resource"] == {"Fn::GetAtt": [f"{OUTSIDE}Logs", "Arn"]}
        # Longer than an attempt, shorter than what waits for it, which ends before its caller's time does.
        assert (
            POST_SECONDS
            < function["Timeout"]
            < SEND_SECONDS
            < stack.resources["OpenaiFunction"]["Properties"]["Timeout"]
        )


def test_schedules_run_every_task_at_its_time(stack: Stack) -> None:
    schedules = stack.of_type("AWS::Scheduler::Schedule").values()
    tasks = {schedule["ScheduleExpression"]: json.loads(schedule["Target"]["Input"])["tasks"] for schedule in schedules}
    assert tasks == {
        "rate(1 minute)": ["recover"],
        "rate(5 minutes)": ["usage", "stats", "audit"],
        "rate(1 hour)": ["verify"],
        "cron(35 3 ? * SUN *)": ["verify"],
        "cron(5 0 * * ? *)": ["partitions", "expire"],
        "cron(50 * * * ? *)": ["objects"],
        "cron(20 1 * * ? *)": ["usage", "close"],
        "cron(35 2 * * ? *)": ["archive"],
    }
    for schedule in schedules:
        assert "Name" not in schedule  # a fixed name collides when CloudFormation replaces the schedule
        assert set(json.loads(schedule["Target"]["Input"])) <= {"tasks", "full"}
        if schedule["ScheduleExpression"].startswith("cron"):
            assert schedule["ScheduleExpressionTimezone"] == "UTC"


def test_event_files_equal_the_schedules_input(stack: Stack) -> None:
    scheduled = [
        json.loads(schedule["Target"]["Input"]) for schedule in stack.of_type("AWS::Scheduler::Schedule").values()
    ]
    files = [json.loads(path.read_text()) for path in (ROOT / "events").glob("rollup-*.json")]
    assert sorted(files, key=str) == sorted(scheduled, key=str)


def test_schedules_give_up_before_their_next_run(stack: Stack) -> None:
    for schedule in stack.of_type("AWS::Scheduler::Schedule").values():
        expression, retry = schedule["ScheduleExpression"], schedule["Target"]["RetryPolicy"]
        rate = re.fullmatch(r"rate\((\d+) (minute|hour)s?\)", expression)
        interval = {"minute": 60, "hour": 3600}[rate[2]] * int(rate[1]) if rate else 86_400
        assert retry["MaximumEventAgeInSeconds"] <= interval, expression


def test_event_files_call_routes_that_exist(processed: dict[str, Any]) -> None:
    paths = processed["Resources"]["Api"]["Properties"]["Body"]["paths"]
    routes = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    called = set()
    for path in (ROOT / "events").glob("*.json"):
        event = json.loads(path.read_text())
        if "routeKey" in event:
            assert event["requestContext"]["http"]["path"] == event["rawPath"], path.name
            method = event["requestContext"]["http"]["method"]
            assert event["routeKey"].split(" ")[0] in (method, "ANY"), path.name
            called.add(event["routeKey"])
    assert {key.replace("ANY ", "X-AMAZON-APIGATEWAY-ANY-METHOD ") for key in called} == routes
