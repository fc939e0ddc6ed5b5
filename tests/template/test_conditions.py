"""The template is consistent with the created database and with a bring-your-own one."""

import re
from typing import Any

import pytest

from tests.template.stack import PSEUDO_PARAMETERS, Stack, walk

NETWORK = re.compile(r"^AWS::(EC2|RDS)::")


def references(stack: Stack) -> set[str]:
    """Every name that the resources and outputs of a stack refer to."""
    found = set()
    for _, node in walk({"Resources": stack.resources, "Outputs": stack.template["Outputs"]}):
        if not isinstance(node, dict):
            continue
        if isinstance(node.get("Ref"), str):
            found.add(node["Ref"])
        if "Fn::GetAtt" in node:
            found.add(node["Fn::GetAtt"][0])
        if "Fn::Sub" in node:
            text, names = node["Fn::Sub"], {}
            if isinstance(text, list):
                text, names = text
            found |= {name.split(".")[0] for name in re.findall(r"\$\{([^!}]+)\}", text)} - set(names)
        if isinstance(node.get("DependsOn"), str):
            found.add(node["DependsOn"])
    return found


def test_every_reference_exists(stack: Stack) -> None:
    known = set(stack.resources) | set(stack.parameters) | set(PSEUDO_PARAMETERS)
    assert references(stack) - known == set()


def test_every_parameter_is_used(processed: dict[str, Any], source: dict[str, Any]) -> None:
    used = references(Stack.of(processed, ReserveConcurrency="true"))
    decided = {node["Ref"] for _, node in walk(source["Conditions"]) if isinstance(node, dict) and "Ref" in node}
    assert set(source["Parameters"]) - used - decided == set()


def test_an_own_database_needs_no_network_and_no_rds(own: Stack) -> None:
    assert not [name for name, body in own.resources.items() if NETWORK.match(body["Type"])]


def test_network_and_database_share_a_condition(source: dict[str, Any]) -> None:
    for name, body in source["Resources"].items():
        assert (body.get("Condition") == "CreateDatabase") == (
            NETWORK.match(body["Type"]) is not None or name == "NetworkPolicy"
        ), name


def test_the_migration_has_network_access_before_it_runs(created: Stack) -> None:
    needed = {each["Ref"] for each in created.resources["Schema"]["Properties"]["Network"]}
    assert needed == {
        "FunctionToDatabase",
        "DatabaseFromFunction",
        "Ipv6Route",
        "SubnetARoutes",
        "SubnetBRoutes",
        "S3Endpoint",
    }


def test_the_created_database_is_private_encrypted_and_without_a_password(created: Stack) -> None:
    database = created.resources["Database"]
    properties = database["Properties"]
    assert properties["StorageEncrypted"] is True
    assert properties["PubliclyAccessible"] is False
    assert properties["EnableIAMDatabaseAuthentication"] is True
    assert properties["MasterUserAuthenticationType"] == "iam-db-auth"
    assert "MasterUserPassword" not in properties
    assert database["DeletionPolicy"] == database["UpdateReplacePolicy"] == "Snapshot"
    assert created.resources["DatabaseParameters"]["Properties"]["Parameters"]["rds.force_ssl"] == "1"


def test_only_functions_reach_the_database(created: Stack) -> None:
    (ingress,) = created.of_type("AWS::EC2::SecurityGroupIngress").values()
    assert ingress["SourceSecurityGroupId"] == {"Ref": "FunctionSecurityGroup"}
    assert ingress["GroupId"] == {"Ref": "DatabaseSecurityGroup"}
    assert (ingress["FromPort"], ingress["ToPort"]) == (5432, 5432)
    for group in created.of_type("AWS::EC2::SecurityGroup").values():
        assert "SecurityGroupIngress" not in group


@pytest.mark.parametrize("output", ["ApiUrl", "RequestQueueUrl", "DeadLetterQueueUrl", "MigrateFunctionName"])
def test_outputs(stack: Stack, output: str) -> None:
    assert stack.template["Outputs"][output]["Description"]


def test_a_created_database_is_an_output(created: Stack, own: Stack) -> None:
    assert "DatabaseEndpoint" in created.template["Outputs"]
    assert "DatabaseEndpoint" not in own.template["Outputs"]
