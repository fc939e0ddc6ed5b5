"""Each function has its own role with only the permissions that it needs."""

from typing import Any

import pytest

from tests.template.stack import FUNCTIONS, Stack, walk

QUEUE = {"Fn::GetAtt": ["RequestQueue", "Arn"]}
DEAD_LETTERS = {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}
WAKE_UPS = {"Fn::GetAtt": ["WebhookQueue", "Arn"]}
BATCHES = {"Fn::GetAtt": ["BatchQueue", "Arn"]}
DELIVER = {"Fn::GetAtt": ["DeliverFunction", "Arn"]}
FOREGROUND = {"Fn::GetAtt": ["ForegroundFunction", "Arn"]}
ROLLUP = {"Fn::GetAtt": ["RollupFunction", "Arn"]}
RESERVED = [
    {
        "Fn::Sub": "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${AWS::StackName}-"
        + name.lower()
    }
    for name in ("Submit", "Status", "Openai", "Worker", "Foreground")
]
ANSWERS = {"Fn::Sub": "${Bucket.Arn}/results/*"}
INPUTS = {"Fn::Sub": "${Bucket.Arn}/inputs/*"}
FILES = {"Fn::Sub": "${Bucket.Arn}/files/*"}
UPLOADS = {"Fn::Sub": "${Bucket.Arn}/uploads/*"}
OBJECTS = {"Fn::Sub": "${Bucket.Arn}/*"}
BUCKET = {"Fn::GetAtt": ["Bucket", "Arn"]}
MODEL_CREDENTIALS = {
    "Fn::Sub": "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:sluice/models/*"
}

# Permissions in addition to logging, tracing, the network and the database.
GRANTS: dict[str, dict[str, list[object]]] = {
    "Submit": {"sqs:SendMessage": [QUEUE], "s3:PutObject": [INPUTS]},
    "Status": {"s3:GetObject": [ANSWERS], "s3:GetObjectVersion": [ANSWERS]},
    "Openai": {
        "sqs:SendMessage": [QUEUE, [WAKE_UPS, BATCHES]],
        "lambda:InvokeFunction": [FOREGROUND, DELIVER],
        "s3:PutObject": [INPUTS, [FILES, UPLOADS]],
        "s3:AbortMultipartUpload": [[FILES, UPLOADS]],
        "s3:GetObject": [INPUTS, ANSWERS, [FILES, UPLOADS]],
        "s3:GetObjectVersion": [INPUTS, ANSWERS, [FILES, UPLOADS]],
    },
    "Foreground": {
        "sqs:SendMessage": [QUEUE, [WAKE_UPS, BATCHES]],
        "bedrock:InvokeModel": [{"Ref": "BedrockModelArns"}],
        "secretsmanager:GetSecretValue": [MODEL_CREDENTIALS],
        "s3:GetObject": [INPUTS],
        "s3:GetObjectVersion": [INPUTS],
        "s3:PutObject": [ANSWERS],
    },
    "Worker": {
        "sqs:ReceiveMessage": [QUEUE],
        "sqs:DeleteMessage": [QUEUE],
        "sqs:ChangeMessageVisibility": [QUEUE],
        "sqs:GetQueueAttributes": [QUEUE],
        "sqs:SendMessage": [QUEUE, [WAKE_UPS, BATCHES]],
        "bedrock:InvokeModel": [{"Ref": "BedrockModelArns"}],
        "secretsmanager:GetSecretValue": [MODEL_CREDENTIALS],
        "s3:GetObject": [INPUTS],
        "s3:GetObjectVersion": [INPUTS],
        "s3:PutObject": [ANSWERS],
    },
    "Webhooks": {
        "sqs:ReceiveMessage": [WAKE_UPS],
        "sqs:DeleteMessage": [WAKE_UPS],
        "sqs:ChangeMessageVisibility": [WAKE_UPS],
        "sqs:GetQueueAttributes": [WAKE_UPS],
        "sqs:SendMessage": [WAKE_UPS],
        "lambda:InvokeFunction": [DELIVER],
    },
    "Batches": {
        "sqs:ReceiveMessage": [BATCHES],
        "sqs:DeleteMessage": [BATCHES],
        "sqs:ChangeMessageVisibility": [BATCHES],
        "sqs:GetQueueAttributes": [BATCHES],
        "sqs:SendMessage": [[BATCHES, WAKE_UPS], QUEUE],
        "s3:GetObject": [[FILES, INPUTS, ANSWERS]],
        "s3:GetObjectVersion": [[FILES, INPUTS, ANSWERS]],
        "s3:PutObject": [[FILES, INPUTS]],
        "s3:AbortMultipartUpload": [[FILES, INPUTS]],
    },
    "Rollup": {
        "sqs:SendMessage": [QUEUE, [WAKE_UPS, BATCHES]],
        "sqs:GetQueueAttributes": [QUEUE],
        "sqs:ReceiveMessage": [DEAD_LETTERS],
        "sqs:DeleteMessage": [DEAD_LETTERS],
        "s3:ListBucketVersions": [BUCKET],
        "s3:DeleteObject": [OBJECTS],
        "s3:DeleteObjectVersion": [OBJECTS],
    },
    "Admin": {"lambda:InvokeFunction": [ROLLUP]},
    "Migrate": {
        "lambda:GetAccountSettings": ["*"],
        "lambda:GetFunctionConcurrency": [RESERVED],
        "lambda:PutFunctionConcurrency": [RESERVED],
        "lambda:DeleteFunctionConcurrency": [RESERVED],
    },
}
COMMON = {"Log", "Trace", "AttachToNetwork", "NotFromTheCode", "ConnectToDatabase", "ReadDatabaseSecret"}

# Actions that AWS does not allow to restrict to a resource.
WITHOUT_RESOURCE = {
    "lambda:GetAccountSettings",
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
}


def actions(statement: dict[str, Any]) -> list[str]:
    return statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_only_the_permissions_it_needs(stack: Stack, name: str) -> None:
    granted: dict[str, list[object]] = {}
    for statement in stack.statements(f"{name}Role"):
        if statement["Sid"] not in COMMON:
            for action in actions(statement):
                granted.setdefault(action, []).append(statement["Resource"])
    assert granted == GRANTS[name]


def test_only_who_runs_models_invokes_the_endpoints_that_are_named(processed: dict[str, Any]) -> None:
    arns = "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/a,arn:aws:sagemaker:eu-west-1:123456789012:endpoint/b"
    named = Stack.of(processed, SageMakerEndpointArns=arns)
    for name in FUNCTIONS:
        found = [each for each in named.statements(f"{name}Role") if "sagemaker:InvokeEndpoint" in actions(each)]
        if name not in {"Worker", "Foreground"}:
            assert found == []
            continue
        (statement,) = found
        assert (statement["Effect"], actions(statement)) == ("Allow", ["sagemaker:InvokeEndpoint"])
        assert statement["Resource"] == {"Ref": "SageMakerEndpointArns"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_logs_to_its_own_group(stack: Stack, name: str) -> None:
    (statement,) = [each for each in stack.statements(f"{name}Role") if each["Sid"] == "Log"]
    assert statement["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert statement["Resource"] == {"Fn::GetAtt": [f"{name}Logs", "Arn"]}


@pytest.mark.parametrize(
    ("name", "user"),
    [(name, f"sluice_{'owner' if name == 'Migrate' else name.lower()}") for name in FUNCTIONS],
)
def test_a_function_connects_as_its_own_user_of_the_created_database(created: Stack, name: str, user: str) -> None:
    (statement,) = [each for each in created.statements(f"{name}Role") if each["Sid"] == "ConnectToDatabase"]
    assert statement["Action"] == "rds-db:connect"
    assert statement["Resource"]["Fn::Sub"].endswith(f":dbuser:${{Database.DbiResourceId}}/{user}")
    assert created.variables(f"{name}Function")["DATABASE_ROLE"] == user


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_reads_the_secret_of_an_own_database(own: Stack, name: str) -> None:
    statements = own.statements(f"{name}Role")
    (statement,) = [each for each in statements if each["Sid"] == "ReadDatabaseSecret"]
    assert statement["Action"] == "secretsmanager:GetSecretValue"
    assert statement["Resource"] == {"Ref": "DatabaseSecretArn"}
    assert not [each for each in statements if each["Sid"] in {"ConnectToDatabase", "AttachToNetwork"}]


def test_only_the_migration_has_the_owners_rights(created: Stack) -> None:
    owner = created.resources["Database"]["Properties"]["MasterUsername"]
    holders = {
        name
        for name, role in created.of_type("AWS::IAM::Role").items()
        for _, value in walk(role)
        if isinstance(value, str) and value.endswith(f"/{owner}")
    }
    assert holders == {"MigrateRole"}


def test_a_separate_policy_belongs_to_one_role(stack: Stack) -> None:
    for name, policy in stack.of_type("AWS::IAM::Policy").items():
        assert policy["Roles"] == [{"Ref": f"{name.removesuffix('Policy')}Role"}], name


def test_policies_grant_no_wildcards_except_where_aws_requires_them(stack: Stack) -> None:
    roles = stack.of_type("AWS::IAM::Role")
    assert len(roles) == len(FUNCTIONS) + 2  # and of the one outside, and the schedules' one
    for role in roles:
        for statement in stack.statements(role):
            assert not [action for action in actions(statement) if "*" in action], role
            if statement["Resource"] == "*":
                assert set(actions(statement)) <= WITHOUT_RESOURCE, role


def test_function_code_cannot_manage_network_interfaces(created: Stack) -> None:
    allowed, denied = created.resources["NetworkPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (allowed["Effect"], denied["Effect"]) == ("Allow", "Deny")
    assert allowed["Action"] == denied["Action"]
    assert "lambda:SourceFunctionArn" in denied["Condition"]["ArnLike"]


def test_roles_are_assumed_by_the_service_that_uses_them(stack: Stack) -> None:
    for name, role in stack.of_type("AWS::IAM::Role").items():
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        service = "scheduler" if name == "RollupScheduleRole" else "lambda"
        assert statement["Principal"] == {"Service": f"{service}.amazonaws.com"}


def test_schedules_may_invoke_only_the_rollup(stack: Stack) -> None:
    (statement,) = stack.statements("RollupScheduleRole")
    assert actions(statement) == ["lambda:InvokeFunction"]
    assert statement["Resource"] == ROLLUP


@pytest.mark.parametrize("queue", ["RequestQueue", "DeadLetterQueue", "WebhookQueue"])
def test_queues_refuse_plain_http(stack: Stack, queue: str) -> None:
    policy = stack.resources[f"{queue}Policy"]["Properties"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert policy["Queues"] == [{"Ref": queue}]
    assert statement["Effect"] == "Deny"
    assert statement["Resource"] == {"Fn::GetAtt": [queue, "Arn"]}
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
