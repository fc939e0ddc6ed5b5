"""`python -m local sam ARGUMENTS`: `sam local ARGUMENTS` with the running stack's database, queue, bucket and model.

What runs is what `sam build` makes of template.yaml for Lambda. Each function gets the environment of the one that is
deployed in the stack's emulator, with addresses that containers reach.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from samcli.yamlhelper import yaml_dump, yaml_parse

from local import deploy
from local.environment import REGION, ROOT, architecture, aws_client, aws_variables, child_environment
from local.errors import LocalError
from local.files import write_atomically
from local.ports import LOOPBACK

# What the SAM CLI would take from the template, whose parameters it cannot resolve, is replaced. A variable that no
# function has in the template reaches none.
_ADDED: Final = ("AWS_ENDPOINT_URL",)
RUNTIMES: Final = ("python3.11", "python3.12", "python3.13", "python3.14")
"""As the template has them."""
DEFAULT_RUNTIME: Final = "python3.13"


def run(state_dir: Path, runtime: str, arguments: Sequence[str]) -> int:
    """Run `sam local` and return its exit code.

    Args:
        state_dir: of the stack, which was started with --containers.
        runtime: the Python of the functions.

    Raises:
        LocalError: the stack does not run, or not for containers; `sam build` failed.
    """
    info = _stack(state_dir)
    folder = state_dir.absolute() / "sam-local"
    folder.mkdir(mode=0o700, exist_ok=True)
    environment = _environment(folder, info["aws_endpoint_url"])
    template = _build(folder, runtime, environment)
    variables = folder / "env.json"
    write_atomically(variables, json.dumps(_variables(info), indent=2) + "\n")
    command = [sys.executable, "-m", "samcli", "local", *arguments, "--template", str(template)]
    if arguments[:1] != ["generate-event"]:
        command += ["--env-vars", str(variables), "--parameter-overrides", *_parameters(runtime)]
        command += ["--region", REGION, "--language-extensions", "--config-file", str(ROOT / "samconfig.toml")]
        command += ["--config-env", "local"]
    # It stops its containers when it is interrupted, so this process only waits.
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _stack(state_dir: Path) -> Mapping[str, Any]:
    """The addresses of a running stack."""
    try:
        info: dict[str, Any] = json.loads((state_dir / "stack.json").read_text())
    except FileNotFoundError:
        raise LocalError(f"No stack runs in {state_dir}: start one with `make run RUN=--containers`.") from None
    if info["container_address"] is None:
        raise LocalError(
            "The stack listens on 127.0.0.1 only, which containers do not reach: stop it, and start it with `make run "
            "RUN=--containers`."
        )
    return info


def _build(folder: Path, runtime: str, environment: Mapping[str, str]) -> Path:
    """Build for Lambda, if anything has changed; returns the template for `sam local`."""
    built, stamp = folder / "build", folder / "build.inputs"
    template = built / "template.yaml"
    digest = f"{runtime} {deploy.inputs_digest(ROOT)}"
    if template.exists() and stamp.exists() and stamp.read_text() == digest:
        return template
    stamp.unlink(missing_ok=True)
    command = [sys.executable, "-m", "samcli", "build", "--config-env", "local", "--build-dir", str(built)]
    command += ["--template-file", str(ROOT / "template.yaml"), "--parameter-overrides", *_parameters(runtime)]
    target = {"SLUICE_BUILD": architecture(), "SLUICE_RUNTIME": runtime, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env={**environment, **target}, check=False, capture_output=True)
    if done.returncode:
        raise LocalError(f"`sam build` failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    description = yaml_parse(template.read_text())
    settings = description["Globals"]["Function"]["Environment"]["Variables"]
    settings.update(dict.fromkeys(_ADDED, ""))
    write_atomically(template, yaml_dump(description))
    write_atomically(stamp, digest)
    return template


def _variables(info: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The environment of each function, as it is deployed, by the function's name in the template."""
    client = aws_client("lambda", info["aws_endpoint_url"])
    variables: dict[str, dict[str, str]] = {}
    for role, name in info["functions"].items():
        found = client.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        found |= dict.fromkeys(_ADDED, info["aws_endpoint_url"])
        variables[f"{role.capitalize()}Function"] = {
            key: str(value).replace(LOOPBACK, info["container_address"]) for key, value in found.items()
        }
    return variables


def _parameters(runtime: str) -> list[str]:
    return [f"Runtime={runtime}", f"Architecture={architecture()}"]


def _environment(folder: Path, endpoint_url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    return child_environment(
        # `sam local` asks who it is, and hands its own credentials to the functions.
        **aws_variables(endpoint_url),
        **kept,
        SAM_CLI_TELEMETRY="0",
        __SAM_CLI_APP_DIR=str(folder / "cli"),
        PYTHONUNBUFFERED="1",
    )
