"""The template in its two forms: as it is written, and as CloudFormation gets it from the SAM transform."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).parents[2]
SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:sluice/database-AbCdEf"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:alarms"
PSEUDO_PARAMETERS = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/sluice/1",
    "AWS::StackName": "sluice",
    "AWS::URLSuffix": "amazonaws.com",
}


def walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value inside a structure with the way to it, the structure itself first."""
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, (*path, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, (*path, str(index)))


class _Nothing:
    """What AWS::NoValue leaves behind."""


@dataclass(frozen=True)
class Stack:
    """A template with its conditions decided: what CloudFormation would create for a set of parameters.

    References stay as they are; Fn::If, conditional resources and outputs are resolved.
    """

    template: dict[str, Any]
    parameters: dict[str, Any]

    @classmethod
    def of(cls, template: dict[str, Any], **given: str) -> "Stack":
        defaults = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
        stack = cls(template, {**defaults, **given})
        decided = {
            **template,
            "Resources": stack._existing("Resources"),
            "Outputs": stack._existing("Outputs"),
        }
        return cls(decided, stack.parameters)

    def _existing(self, section: str) -> dict[str, Any]:
        return {
            name: self._decide(body)
            for name, body in self.template[section].items()
            if "Condition" not in body or self.holds(body["Condition"])
        }

    def holds(self, condition: str | dict[str, Any]) -> bool:
        if isinstance(condition, str):
            return self.holds(self.template["Conditions"][condition])
        ((function, argument),) = condition.items()
        if function == "Fn::Not":
            return not self.holds(argument[0])
        if function == "Fn::Equals":
            left, right = (self.parameters[side["Ref"]] if isinstance(side, dict) else side for side in argument)
            return str(left) == str(right)
        raise NotImplementedError(function)

    def _decide(self, node: Any) -> Any:
        if isinstance(node, dict):
            if set(node) == {"Fn::If"}:
                condition, yes, no = node["Fn::If"]
                return self._decide(yes if self.holds(condition) else no)
            if node == {"Ref": "AWS::NoValue"}:
                return _Nothing
            decided = {key: self._decide(value) for key, value in node.items()}
            return {key: value for key, value in decided.items() if value is not _Nothing}
        if isinstance(node, list):
            return [value for value in map(self._decide, node) if value is not _Nothing]
        return node

    @property
    def resources(self) -> dict[str, Any]:
        return self.template["Resources"]

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """The properties of every resource of a type, by logical id."""
        return {name: body.get("Properties", {}) for name, body in self.resources.items() if body["Type"] == kind}

    def variables(self, function: str) -> dict[str, Any]:
        return self.of_type("AWS::Lambda::Function")[function]["Environment"]["Variables"]

    def statements(self, role: str) -> list[dict[str, Any]]:
        """The policy statements of a role: its own and those of the managed policies that it names."""
        properties = self.resources[role]["Properties"]
        managed = [self.resources[each["Ref"]]["Properties"] for each in properties.get("ManagedPolicyArns", [])]
        documents = [policy["PolicyDocument"] for policy in [*properties.get("Policies", []), *managed]]
        return [statement for document in documents for statement in document["Statement"]]


def read() -> dict[str, Any]:
    """template.yaml, its short forms (!Ref) written out."""
    return yaml_parse((ROOT / "template.yaml").read_text())


def transform(template: dict[str, Any]) -> dict[str, Any]:
    """What the SAM transform makes of a template, conditions still in it."""
    for body in template["Resources"].values():
        for key in ("CodeUri", "ContentUri"):
            if key in body.get("Properties", {}):
                body["Properties"][key] = "s3://bucket/key"  # what sam build and sam package would have put there

    class Session:
        region_name = PSEUDO_PARAMETERS["AWS::Region"]

    return Translator({}, Parser(), boto_session=Session()).translate(template, PSEUDO_PARAMETERS)
