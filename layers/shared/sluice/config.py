"""The settings that a function finds in its environment; template.yaml writes them, only this module reads them."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluice.domain.errors import ConfigurationError


class Settings(BaseModel):
    """Settings of every function; those that a function does not use stay at their defaults."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    # The database: either the secret of a bring-your-own one, or the address of the template's own (IAM login).
    database_secret_arn: str = ""
    database_host: str = ""
    database_port: int = Field(default=5432, ge=1, le=65_535)
    database_name: str = "sluice"
    database_role: str = ""
    """The role to act as; empty: the secret's own user (the owner)."""

    queue_url: str = ""
    dead_letter_queue_url: str = ""
    rollup_function: str = ""
    foreground_function: str = ""
    webhook_queue_url: str = ""
    batch_queue_url: str = ""
    deliver_function: str = ""
    webhook_loopback: bool = False
    """Whether webhooks may be sent to this machine, and by http: for the local stack only."""

    max_prompt_bytes: int = Field(default=32_768, gt=0)
    request_ttl_seconds: int = Field(default=86_400, gt=0)
    max_attempts: int = Field(default=20, gt=0, lt=2**15)

    max_result_bytes: int = Field(default=1_000_000, gt=0)
    inline_result_bytes: int = Field(default=1_000_000, gt=0)
    """The longest answer in text that the database keeps."""
    storage_bucket: str = ""
    """Where what is too large for the database is kept; empty: nowhere, and it is refused."""
    max_stored_bytes: int = Field(default=104_857_600, gt=0)
    """The largest answer that is kept there, in bytes."""
    max_file_bytes: int = Field(default=209_715_200, gt=0)
    """The largest file that a user may upload, in bytes."""
    flush_milliseconds: int = Field(default=200, ge=0)
    retry_base_seconds: float = Field(default=10, gt=0)
    lease_margin_seconds: float = Field(default=30, gt=0)
    worker_timeout: int = Field(default=120, gt=0)
    """Seconds that a run of a model's request has in all."""
    redispatch_grace_seconds: int = Field(default=60, gt=0)

    submit_concurrency: int = Field(default=20, ge=1)
    status_concurrency: int = Field(default=20, ge=1)
    openai_concurrency: int = Field(default=10, ge=1)
    worker_concurrency: int = Field(default=5, ge=1)
    """Environments of each function that may run at once, for which the migration makes room in the database."""

    archive_after_days: int = Field(default=30, ge=1)
    aws_region: str = "us-east-1"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; empty variables count as absent.

        Raises:
            ConfigurationError: naming the variables whose values are unusable.
        """
        given = {name: environment[name.upper()] for name in cls.model_fields if environment.get(name.upper())}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            wrong = "; ".join(f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False))
            raise ConfigurationError(f"unusable environment: {wrong}") from None

    def require(self, name: str) -> str:
        """The value of a text setting that this function cannot do without.

        Raises:
            ConfigurationError: if it is empty.
        """
        value = str(getattr(self, name))
        if not value:
            raise ConfigurationError(f"{name.upper()} is not set")
        return value
