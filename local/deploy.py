"""Building ``template.yaml`` and deploying it into the emulator, with the same tool and description as into AWS.

Two things the emulator does not do are done here after a deployment. It takes no notice of the OpenAPI document in
which SAM declares an HTTP API's routes: they are read from the processed template and made one by one, and nothing
here says what they are. And it keeps numbers that come from a template's parameters as text.
"""

import hashlib
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError

from local.emulator import Emulator
from local.environment import ROOT, architecture, aws_variables, child_environment
from local.errors import LocalError
from local.files import write_atomically
from local.processes import Process

STACK_NAME = "sluice-local"

_SAMCONFIG_ENVIRONMENT = "local"
_INPUTS = ("template.yaml", "samconfig.toml", "bytecode.mk", "functions", "layers/shared")
_NOT_INPUTS = frozenset({"__pycache__", ".DS_Store"})
_BUILD_SECONDS = 600.0  # the first build may download the layer's packages
_DEPLOY_SECONDS = 300.0
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "x-amazon-apigateway-any-method"})
_FUNCTION_IN_URI = re.compile(r"/functions/\$\{(\w+?)(?:\.Arn)?\}/invocations")


# Build ----------------------------------------------------------------------------------------------------------------


class Build:
    """`sam build` for this machine, into a folder of the stack's own; skipped while nothing it reads has changed."""

    def __init__(self, state_dir: Path, log: Path) -> None:
        self._folder = state_dir / "build"
        self._stamp = state_dir / "build.inputs"
        self._log = log
        self._state_dir = state_dir
        self._process: Process | None = None
        self._digest = ""

    @property
    def template(self) -> Path:
        """The built template, which `sam deploy` takes."""
        return self._folder / "template.yaml"

    @property
    def process(self) -> Process | None:
        """`sam build` while it runs."""
        return self._process

    def launch(self) -> bool:
        """Start building without waiting; False if what is there is still right."""
        self._digest = inputs_digest(ROOT)
        whole = self.template.exists() and (self._state_dir / "layer" / "python" / "sluice").is_dir()
        if whole and self._stamp.exists() and self._stamp.read_text() == self._digest:
            return False
        self._stamp.unlink(missing_ok=True)
        command = [*_sam(), "build", "--config-env", _SAMCONFIG_ENVIRONMENT, "--build-dir", str(self._folder)]
        command += ["--template-file", str(ROOT / "template.yaml")]
        command += ["--parameter-overrides", f"Architecture={architecture()}"]
        environment = _sam_environment(self._state_dir, "http://127.0.0.1:9")
        environment |= {"SLUICE_BUILD": "host", "PYTHON": sys.executable}
        self._process = Process.start("sam build", command, log=self._log, env=environment, cwd=ROOT)
        return True

    def wait(self) -> None:
        """Wait for the build that was launched, if one was."""
        if self._process is None:
            return
        _finish(self._process, _BUILD_SECONDS, "`sam build` failed")
        self._process = None
        link_layer(self._folder / "SharedLayer", self._state_dir / "layer")
        write_atomically(self._stamp, self._digest)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(seconds=1)
            self._process = None


def link_layer(built: Path, kept: Path) -> None:
    """Leave a layer that points to `kept`, where what was built is moved to.

    The emulator unpacks a function's layer for each of its environments, one after the other: twenty requests at once
    would wait half a minute for twenty copies of the same packages. As on Lambda, a layer may hold a site directory,
    whose .pth file Python executes at start; this one puts the one copy on the path.
    """
    shutil.rmtree(kept, ignore_errors=True)
    shutil.move(built, kept)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_directory = built / "python" / "lib" / version / "site-packages"
    site_directory.mkdir(parents=True)
    # In ASCII: Python reads these files in the encoding of the locale, which in C has no other letters.
    (site_directory / "sluice.pth").write_text(f"import sys; sys.path.insert(0, {str(kept / 'python')!a})\n")


def inputs_digest(root: Path) -> str:
    """A digest of every file that `sam build` reads under `root`, and of the interpreter whose wheels it takes."""
    digest = hashlib.sha256(f"{sys.version}\0{sys.prefix}\0{architecture()}\0".encode())
    for name in _INPUTS:
        for path in _files(root / name):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)}\0{len(content)}\0{path.stat().st_mode & 0o111}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if child.name not in _NOT_INPUTS:
                yield from _files(child)


# Deploy ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deployment:
    """The result of a deployment."""

    outputs: Mapping[str, str]
    resources: Mapping[str, str]  # logical id → physical id
    template: Mapping[str, Any]  # after the SAM transform


def deploy(
    emulator: Emulator, template: Path, parameters: Mapping[str, str], *, state_dir: Path, log: Path
) -> Deployment:
    """`sam deploy` of a built template. LocalError with the end of its log if CloudFormation refuses or fails."""
    command = [*_sam(), "deploy", "--config-env", _SAMCONFIG_ENVIRONMENT, "--template-file", str(template)]
    command += ["--config-file", str(ROOT / "samconfig.toml"), "--stack-name", STACK_NAME, "--no-progressbar"]
    # A rollback would delete the log groups, and in them why the migration failed.
    command += ["--disable-rollback"]
    command += ["--parameter-overrides", *(f"{name}={value}" for name, value in parameters.items())]
    environment = _sam_environment(state_dir, emulator.url)
    process = Process.start("sam deploy", command, log=log, env=environment, cwd=ROOT)
    try:
        _finish(process, _DEPLOY_SECONDS, "`sam deploy` failed")
    except LocalError as problem:
        if reasons := _reasons(emulator):
            raise LocalError(f"`sam deploy` failed: {reasons}\nAll that it said is in {log}.") from None
        raise problem from None
    finally:
        process.stop(seconds=1)
    return _deployed(emulator)


def functions(deployment: Deployment) -> dict[str, str]:
    """The deployed names of the functions by role: SubmitFunctionName is the output that says it for `submit`."""
    suffix = "FunctionName"
    return {
        name.removesuffix(suffix).lower(): value for name, value in deployment.outputs.items() if name.endswith(suffix)
    }


def _reasons(emulator: Emulator) -> str:
    """The reasons that CloudFormation gives for a failure; empty if it cannot be asked or nothing failed."""
    try:
        events = emulator.client("cloudformation").describe_stack_events(StackName=STACK_NAME)["StackEvents"]
    except (ClientError, HTTPClientError):
        return ""
    return "; ".join(
        f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', 'no reason given')}"
        for event in reversed(events)
        if event["ResourceStatus"].endswith("_FAILED") and event["LogicalResourceId"] != STACK_NAME
    )


def _deployed(emulator: Emulator) -> Deployment:
    cloudformation = emulator.client("cloudformation")
    stack = cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"][0]
    resources = cloudformation.get_paginator("list_stack_resources").paginate(StackName=STACK_NAME)
    body = cloudformation.get_template(StackName=STACK_NAME, TemplateStage="Processed")["TemplateBody"]
    return Deployment(
        outputs={each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", ())},
        resources={
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for page in resources
            for each in page["StackResourceSummaries"]
            if "PhysicalResourceId" in each
        },
        template=body if isinstance(body, Mapping) else json.loads(body),
    )


# Routes ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """One route of an HTTP API, as the processed template has it."""

    key: str  # as API Gateway writes it: "GET /status/{request_id}"
    function: str  # logical id of the function, or of its alias
    payload_version: str
    timeout_ms: int


def find_api(template: Mapping[str, Any]) -> tuple[str, list[Route]]:
    """The logical id of the template's HTTP API and its routes. LocalError if there is not exactly one such API."""
    apis = {
        name: resource["Properties"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::ApiGatewayV2::Api"
    }
    if len(apis) != 1:
        raise LocalError(f"template.yaml declares {len(apis)} HTTP APIs, and the local stack can serve one.")
    [(api, properties)] = apis.items()
    routes = [
        _route(method, path, operation["x-amazon-apigateway-integration"])
        for path, item in properties.get("Body", {}).get("paths", {}).items()
        for method, operation in item.items()
        if method in _METHODS
    ]
    return api, routes


def _route(method: str, path: str, integration: Mapping[str, Any]) -> Route:
    uri = integration["uri"]
    text = uri["Fn::Sub"] if isinstance(uri, Mapping) else uri
    if not isinstance(text, str) or (found := _FUNCTION_IN_URI.search(text)) is None:
        raise LocalError(f"The route {method} {path} leads to something other than a function of the template: {uri}")
    verb = "ANY" if method.startswith("x-") else method.upper()
    return Route(
        key="$default" if path == "/$default" else f"{verb} {path}",
        function=found.group(1),
        payload_version=str(integration.get("payloadFormatVersion", "2.0")),
        timeout_ms=int(integration.get("timeoutInMillis", 30_000)),
    )


def create_routes(emulator: Emulator, deployment: Deployment) -> tuple[str, list[Route]]:
    """Make the API's routes where the emulator has not; returns the API's id and its routes."""
    api, routes = find_api(deployment.template)
    api_id = deployment.resources[api]
    gateway, functions = emulator.client("apigatewayv2"), emulator.client("lambda")
    present = {route["RouteKey"] for route in gateway.get_routes(ApiId=api_id)["Items"]}
    for route in routes:
        if route.key in present:
            continue
        physical = deployment.resources[route.function]
        # An alias's physical id is its ARN; a function's is its name.
        arn = (
            physical
            if physical.startswith("arn:")
            else functions.get_function(FunctionName=physical)["Configuration"]["FunctionArn"]
        )
        integration = gateway.create_integration(
            ApiId=api_id,
            IntegrationType="AWS_PROXY",
            IntegrationUri=arn,
            PayloadFormatVersion=route.payload_version,
            TimeoutInMillis=route.timeout_ms,
        )
        target = f"integrations/{integration['IntegrationId']}"
        gateway.create_route(ApiId=api_id, RouteKey=route.key, Target=target)
    return api_id, routes


def correct_event_sources(emulator: Emulator) -> None:
    """Give each event source mapping its concurrency as a number.

    A template's parameter reaches the emulator as text, and its poller then fails to compare it with a count.
    """
    functions = emulator.client("lambda")
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        limit = mapping.get("ScalingConfig", {}).get("MaximumConcurrency")
        if limit is not None:
            scaling = {"MaximumConcurrency": int(limit)}
            functions.update_event_source_mapping(UUID=mapping["UUID"], ScalingConfig=scaling)


# SAM ------------------------------------------------------------------------------------------------------------------


def _sam() -> list[str]:
    # As a module: a script names its interpreter by an absolute path, and stops working when its folder is moved.
    if importlib.util.find_spec("samcli") is None:
        raise LocalError("The SAM CLI is not installed in this Python environment: `make setup` brings it.")
    return [sys.executable, "-m", "samcli"]


def _sam_environment(state_dir: Path, endpoint_url: str) -> dict[str, str]:
    return child_environment(
        **aws_variables(endpoint_url),
        SAM_CLI_TELEMETRY="0",
        SAM_CLI_POLL_DELAY="0.3",  # seconds; the default of 5 suits a service that is paid for and far away
        # It keeps notes of its own in the home directory, which may be missing or read-only.
        __SAM_CLI_APP_DIR=str(state_dir / "sam"),
        PYTHONUNBUFFERED="1",
    )


def _finish(process: Process, seconds: float, failure: str) -> None:
    ended = process.wait(seconds)
    if not ended or process.exit_code != 0:
        process.stop()
        why = f"exit code {process.exit_code}" if ended else f"not done after {seconds:.0f} s"
        raise LocalError(f"{failure} ({why}). The end of its log, {process.log}:\n{process.log_tail(25)}")
