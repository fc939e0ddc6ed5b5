"""samconfig.toml: environments inherit nothing, so each must be complete."""

import tomllib

import pytest

from tests.template.stack import ROOT

CONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
ENVIRONMENTS = [name for name in CONFIG if name != "version"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_environment_is_complete(environment: str) -> None:
    config = CONFIG[environment]
    assert config["global"]["parameters"]["stack_name"]
    assert config["global"]["parameters"]["language_extensions"] is True
    assert config["build"]["parameters"]["build_in_source"] is True
    assert config["deploy"]["parameters"]["capabilities"] == "CAPABILITY_IAM"
    assert config["deploy"]["parameters"]["resolve_s3"] is True


def test_environments() -> None:
    assert ENVIRONMENTS == ["default", "prod", "local"]


def test_only_interactive_environments_ask_for_confirmation() -> None:
    asks = {name: CONFIG[name]["deploy"]["parameters"]["confirm_changeset"] for name in ENVIRONMENTS}
    assert asks == {"default": True, "prod": False, "local": False}
