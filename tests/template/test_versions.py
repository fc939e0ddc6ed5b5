"""Versions of the API's functions: it calls the newest one, which has the settings of the deployment."""

import re
from typing import Any

import pytest

from tests.template.stack import Stack, walk

VERSIONED = ("Submit", "Status", "Openai")
# What a function refers to and what keeps its identity.
KEPT = {"AWS::StackName", "SubnetA", "SubnetB", "FunctionSecurityGroup"} | {
    kept for name in VERSIONED for kept in (f"{name}Role.Arn", f"{name}Logs")
}


def sources(node: Any) -> set[str]:
    """The parameters and resources that a value is made of."""
    found: set[str] = set()
    for _, each in walk(node):
        match each:
            case {"Ref": str(name)}:
                found.add(name)
            case {"Fn::GetAtt": [name, attribute]}:
                found.add(f"{name}.{attribute}")
            case {"Fn::Sub": str(text)}:
                found |= set(re.findall(r"\$\{([^}]+)\}", text))
    return found


def version(stack: Stack, name: str) -> dict[str, Any]:
    (found,) = [
        body
        for body in stack.resources.values()
        if body["Type"] == "AWS::Lambda::Version" and body["Properties"]["FunctionName"] == {"Ref": f"{name}Function"}
    ]
    return dict(found)


@pytest.mark.parametrize("name", VERSIONED)
def test_the_alias_names_the_newest_version(stack: Stack, name: str) -> None:
    alias = stack.resources[f"{name}FunctionAliaslive"]["Properties"]
    ((published, _),) = [
        (logical_id, body) for logical_id, body in stack.resources.items() if body == version(stack, name)
    ]
    assert alias["FunctionName"] == {"Ref": f"{name}Function"}
    assert alias["FunctionVersion"] == {"Fn::GetAtt": [published, "Version"]}


@pytest.mark.parametrize("name", VERSIONED)
def test_a_version_is_published_for_every_setting_of_its_function_and_for_nothing_else(stack: Stack, name: str) -> None:
    assert version(stack, name)["Properties"]["Description"] == {"Fn::GetAtt": ["Versions", name]}
    settings = stack.resources["Versions"]["Properties"]["Settings"]
    described = sources([settings["Shared"], settings[name]])
    function = stack.resources[f"{name}Function"]["Properties"]
    assert sources(function) - KEPT == described - {"SnapStart"}  # which decides a condition
    assert "SnapStart" in described


@pytest.mark.parametrize("name", VERSIONED)
def test_a_version_that_is_replaced_is_deleted(stack: Stack, name: str) -> None:
    """Each kept version would have a snapshot that is paid for."""
    assert version(stack, name)["DeletionPolicy"] == "Delete"


def test_snapshots_are_a_choice(processed: dict[str, Any]) -> None:
    without, chosen = Stack.of(processed), Stack.of(processed, SnapStart="true")
    for function in without.of_type("AWS::Lambda::Function").values():
        assert "SnapStart" not in function
    snapped = {name: body for name, body in chosen.of_type("AWS::Lambda::Function").items() if "SnapStart" in body}
    assert set(snapped) == {f"{name}Function" for name in VERSIONED}
    for function in snapped.values():
        assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}


def test_nothing_else_has_versions(stack: Stack) -> None:
    """The migration runs as it is deployed, and the worker's messages need no snapshot."""
    assert len(stack.of_type("AWS::Lambda::Version")) == len(VERSIONED)
