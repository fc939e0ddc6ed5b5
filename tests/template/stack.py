"""The template in its two forms: as it is written, and as CloudFormation gets it from its transforms."""

import re
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
    """Every value inside a structure with its path, the structure itself first."""
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, (*path, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, (*path, str(index)))


class _Nothing:
    """The value of AWS::NoValue, to be removed."""


@dataclass(frozen=True)
class Stack:
    """A template with evaluated conditions: what CloudFormation would create for a set of parameters.

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
            left, right = (self._value(side) for side in argument)
            return str(left) == str(right)
        raise NotImplementedError(function)

    def _value(self, side: Any) -> Any:
        if not isinstance(side, dict):
            return side
        if "Fn::Join" in side:
            # Of a list that is a parameter, which is written with commas.
            delimiter, joined = side["Fn::Join"]
            return str(self._value(joined)).replace(",", delimiter)
        return self.parameters[side["Ref"]]

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
        resources: dict[str, Any] = self.template["Resources"]
        return resources

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """The properties of every resource of a type, by logical id."""
        return {name: body.get("Properties", {}) for name, body in self.resources.items() if body["Type"] == kind}

    def variables(self, function: str) -> dict[str, Any]:
        variables: dict[str, Any] = self.of_type("AWS::Lambda::Function")[function]["Environment"]["Variables"]
        return variables

    def statements(self, role: str) -> list[dict[str, Any]]:
        """The policy statements of a role: its inline policies, separate policies, and the managed ones it names."""
        properties = self.resources[role]["Properties"]
        managed = [self.resources[each["Ref"]]["Properties"] for each in properties.get("ManagedPolicyArns", [])]
        beside = [self.resources[each]["Properties"] for each in self.policies(role)]
        documents = [policy["PolicyDocument"] for policy in [*properties.get("Policies", []), *beside, *managed]]
        return [statement for document in documents for statement in document["Statement"]]

    def policies(self, role: str) -> list[str]:
        """The logical ids of the separate policies attached to a role."""
        attached = self.of_type("AWS::IAM::Policy").items()
        return [name for name, policy in attached if {"Ref": role} in policy["Roles"]]


def read() -> dict[str, Any]:
    """template.yaml, with short forms (!Ref) and loops expanded."""
    template: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
    template["Resources"] = _write_out_loops(template["Resources"], template["Mappings"])
    return template


def _write_out_loops(section: dict[str, Any], mappings: dict[str, Any]) -> dict[str, Any]:
    """A section as AWS::LanguageExtensions expands it: each Fn::ForEach is replaced by its items."""
    written: dict[str, Any] = {}
    for key, body in section.items():
        if not key.startswith("Fn::ForEach::"):
            written[key] = body
            continue
        identifier, collection, fragment = body
        for item in collection:
            for name, resource in fragment.items():
                produced = name.replace(f"${{{identifier}}}", item)
                assert produced not in section, f"{produced} is declared twice"
                assert produced not in written, f"{produced} is declared twice"
                written[produced] = _fill_in(resource, identifier, item, mappings)
    return written


def _fill_in(node: Any, identifier: str, item: str, mappings: dict[str, Any]) -> Any:
    """A copy of a loop's body for one item: what depends on the item is resolved, other references stay."""
    if isinstance(node, list):
        return [_fill_in(each, identifier, item, mappings) for each in node]
    if not isinstance(node, dict):
        return node
    filled = {key: _fill_in(value, identifier, item, mappings) for key, value in node.items()}
    match filled:
        case {"Ref": str(name)} if name == identifier:
            return item
        case {"Fn::FindInMap": [str(mapping), str(row), str(column)]}:
            return mappings[mapping][row][column]
        case {"Fn::Sub": [str(text), dict(values)]} if all(isinstance(value, str) for value in values.values()):
            for name, value in values.items():
                text = text.replace(f"${{{name}}}", value)
            return {"Fn::Sub": text}
        case {"Fn::Sub": str(text)}:
            text = text.replace(f"${{{identifier}}}", item)
            # Without a variable left it is a name, which Ref and Fn::GetAtt take.
            return {"Fn::Sub": text} if re.search(r"\$\{", text) else text
    return filled


# The functions in the template's order; everything that needs a list of them takes it from here.
FUNCTIONS: list[str] = list(read()["Mappings"]["Functions"])
# Beside them, one with neither network nor database: it sends webhooks to addresses that others choose.
OUTSIDE = "Deliver"


def handlers() -> dict[str, tuple[str, str]]:
    """The folder in functions/ and the module of each function, by logical id."""
    template = read()
    default = template["Globals"]["Function"]["Handler"]
    return {
        name: (Path(body["Properties"]["CodeUri"]).name, body["Properties"].get("Handler", default).partition(".")[0])
        for name, body in template["Resources"].items()
        if body["Type"] == "AWS::Serverless::Function"
    }


def transform(template: dict[str, Any]) -> dict[str, Any]:
    """The result of the SAM transform, with conditions."""
    for body in template["Resources"].values():
        for key in ("CodeUri", "ContentUri"):
            if key in body.get("Properties", {}):
                body["Properties"][key] = "s3://bucket/key"  # what sam build and sam package would have put there

    class Session:
        region_name = PSEUDO_PARAMETERS["AWS::Region"]

    translator = Translator({}, Parser(), boto_session=Session())
    transformed: dict[str, Any] = translator.translate(template, PSEUDO_PARAMETERS)
    return transformed
