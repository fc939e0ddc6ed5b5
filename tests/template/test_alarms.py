"""Alarms watch existing resources, with the metric names of AWS."""

from typing import Any

import pytest

from tests.template.stack import ROOT, TOPIC, Stack

# The dimension of each namespace, and how the template refers to the resource.
DIMENSIONS = {
    "AWS/Lambda": ("FunctionName", "AWS::Lambda::Function", "Ref"),
    "AWS/SQS": ("QueueName", "AWS::SQS::Queue", "Fn::GetAtt"),
    "AWS/ApiGateway": ("ApiId", "AWS::ApiGatewayV2::Api", "Ref"),
}
# Those that watch a metric of ours: the function that counts it, and how.
OWN_METRICS = {
    "BooksAlarm": ("rollup", "Maximum"),
    "ModelRepairAlarm": ("worker", "Sum"),
    "TokenReportAlarm": ("worker", "Sum"),
    "WebhookAlarm": ("webhooks", "Sum"),
}
METRICS = {
    "AWS/Lambda": {"Errors"},
    "AWS/SQS": {"ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"},
    "AWS/ApiGateway": {"5xx"},  # so named for HTTP APIs; 5XXError is REST's
}


def watched(alarm: dict[str, Any]) -> str:
    ((_, reference),) = alarm["Dimensions"][0]["Value"].items()
    name: str = reference[0] if isinstance(reference, list) else reference
    return name


def test_alarms_name_resources_that_exist(stack: Stack) -> None:
    for name, alarm in stack.of_type("AWS::CloudWatch::Alarm").items():
        if name in OWN_METRICS:
            continue
        dimension, kind, by = DIMENSIONS[alarm["Namespace"]]
        (given,) = alarm["Dimensions"]
        assert given["Name"] == dimension, name
        assert set(given["Value"]) == {by}, name
        assert watched(alarm) in stack.of_type(kind), name
        assert alarm["MetricName"] in METRICS[alarm["Namespace"]], name


def test_every_function_queue_and_api_is_watched(stack: Stack) -> None:
    alarms = [
        (alarm["MetricName"], watched(alarm))
        for name, alarm in stack.of_type("AWS::CloudWatch::Alarm").items()
        if name not in OWN_METRICS
    ]
    expected = [("Errors", function) for function in stack.of_type("AWS::Lambda::Function")] + [
        ("ApproximateNumberOfMessagesVisible", "DeadLetterQueue"),
        ("ApproximateAgeOfOldestMessage", "RequestQueue"),
        ("5xx", "Api"),
    ]
    assert sorted(alarms) == sorted(expected)


def test_alarms_notify_the_topic_if_there_is_one(processed: dict[str, Any]) -> None:
    for alarm in Stack.of(processed).of_type("AWS::CloudWatch::Alarm").values():
        assert "AlarmActions" not in alarm
    for alarm in Stack.of(processed, AlarmTopicArn=TOPIC).of_type("AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopicArn"}]


@pytest.mark.parametrize("name", OWN_METRICS)
def test_alarms_on_our_own_metrics_use_the_functions_names(stack: Stack, name: str) -> None:
    function, statistic = OWN_METRICS[name]
    alarm = stack.resources[name]["Properties"]
    variables = stack.resources[f"{function.capitalize()}Function"]["Properties"]["Environment"]["Variables"]
    assert alarm["Namespace"] == variables["POWERTOOLS_METRICS_NAMESPACE"]
    assert alarm["Dimensions"] == [{"Name": "service", "Value": variables["POWERTOOLS_SERVICE_NAME"]}]
    assert f'"{alarm["MetricName"]}"' in (ROOT / f"functions/{function}/app.py").read_text()
    assert alarm["Statistic"] == statistic


@pytest.mark.parametrize("name", ["DeadLetterAlarm", "MigrateErrorsAlarm", *OWN_METRICS])
def test_alarms_for_unexpected_events_fire_at_one(stack: Stack, name: str) -> None:
    alarm = stack.resources[name]["Properties"]
    assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (0, "GreaterThanThreshold")
    assert alarm["TreatMissingData"] == "notBreaching"
