"""Settings: which values the environment may have, and the errors about unusable ones."""

import pytest

from sluice.config import Settings
from sluice.domain.errors import ConfigurationError


def test_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert (settings.database_port, settings.max_attempts, settings.aws_region) == (5432, 20, "us-east-1")


def test_every_setting_is_read_from_the_variable_of_its_name() -> None:
    given = {name: "True" if field.annotation is bool else "7" for name, field in Settings.model_fields.items()}
    settings = Settings.from_environment({name.upper(): value for name, value in given.items()})
    assert {name: str(value).removesuffix(".0") for name, value in settings.model_dump().items()} == given


def test_empty_variable_counts_as_absent() -> None:
    # CloudFormation sets an empty text for a parameter that was left out.
    assert Settings.from_environment({"DATABASE_PORT": "", "QUEUE_URL": ""}) == Settings()


def test_other_variables_are_ignored() -> None:
    assert Settings.from_environment({"PATH": "/bin", "database_port": "7"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_PORT", "hunter2"),
        ("DATABASE_PORT", "0"),
        ("DATABASE_PORT", "65536"),
        ("MAX_PROMPT_BYTES", "0"),
        ("REQUEST_TTL_SECONDS", "-77777"),
        ("MAX_ATTEMPTS", "77.7"),
        ("MAX_RESULT_BYTES", "1MB77"),
        ("FLUSH_MILLISECONDS", "-77777"),
        ("RETRY_BASE_SECONDS", "0"),
        ("RETRY_BASE_SECONDS", "nan"),
        ("RETRY_BASE_SECONDS", "inf"),
        ("ARCHIVE_AFTER_DAYS", "0"),
    ],
)
def test_unusable_value_is_refused_with_its_name_and_not_shown(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment({variable: value})
    assert f"{variable}: " in str(caught.value)
    if len(value) > 3:
        assert value not in str(caught.value)
    # A traceback of the original error would show it.
    assert caught.value.__suppress_context__


def test_every_unusable_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASE_PORT: .*; MAX_ATTEMPTS: "):
        Settings.from_environment({"MAX_ATTEMPTS": "x", "DATABASE_PORT": "x"})


def test_missing_required_setting_is_named() -> None:
    settings = Settings.from_environment({"QUEUE_URL": "https://queue"})
    assert settings.require("queue_url") == "https://queue"
    with pytest.raises(ConfigurationError, match=r"^ROLLUP_FUNCTION is not set$"):
        settings.require("rollup_function")
