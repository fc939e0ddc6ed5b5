"""The composition root: turns the settings of a function's environment into its services, each made once.

The services themselves read no environment and make no clients; functions pass these providers to their routes. What
only some functions use is imported by the provider that makes it, so that no function imports another's; prepare()
calls the providers while Lambda starts an environment.
"""

import gc
import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sluice.config import Settings
from sluice.db.connection import Database, connect
from sluice.db.ledger import Ledger
from sluice.domain.errors import ConfigurationError, SluiceError
from sluice.domain.requests import RequestLimits
from sluice.domain.sizes import MAX_FILE_BYTES
from sluice.services.access import UnknownKeys

if TYPE_CHECKING:
    from sluice.backends.protocol import Backend
    from sluice.handover import LambdaSender
    from sluice.messaging import Queue
    from sluice.services.admin.operation import AdminContext
    from sluice.services.batch_answers import LineApi
    from sluice.services.batch_work import BatchWorker
    from sluice.services.batches import BatchManager
    from sluice.services.cancel import Canceller
    from sluice.services.deliver import Deliverer
    from sluice.services.erase import Eraser
    from sluice.services.files import FileManager
    from sluice.services.foreground import Foreground
    from sluice.services.inputs import InputKeeper
    from sluice.services.process import Worker
    from sluice.services.purge import Purger
    from sluice.services.quote import Quoter
    from sluice.services.read import Reader
    from sluice.services.submit import Submitter
    from sluice.services.tasks.context import TaskContext
    from sluice.services.tasks.run import TasksEvent
    from sluice.services.webhooks import WebhookManager
    from sluice.storage import Storage

logger = logging.getLogger(__name__)

# What template.yaml gives RollupFunction, and a little more.
ROLLUP_SECONDS: Final = 310
# A rotated credential is used within this time.
_SECRET_SECONDS: Final = 300
# Writing an object is safe to repeat. Two attempts end before whoever waits for an answer is sent away.
_STORAGE: Final = {
    "connect_timeout": 2,
    "read_timeout": 10,
    "retries": {"total_max_attempts": 2, "mode": "standard"},
}


@cache
def settings() -> Settings:
    """The settings of this function."""
    return Settings.from_environment(os.environ)


# Services -------------------------------------------------------------------------------------------------------------


@cache
def input_keeper() -> "InputKeeper | None":
    """Keeps large inputs; None: the database keeps all."""
    from sluice.services.inputs import InputKeeper

    return InputKeeper(storage) if settings().storage_bucket else None


@cache
def unknown_keys() -> UnknownKeys:
    """The unknown keys that this environment remembers."""
    return UnknownKeys()


@cache
def submitter() -> "Submitter":
    """Accepts requests."""
    from sluice.services.submit import Submitter

    return Submitter(ledger=ledger(), queue=queue(), limits=request_limits(), inputs=input_keeper())


@cache
def canceller() -> "Canceller":
    """Cancels requests."""
    from sluice.services.cancel import Canceller

    return Canceller(ledger=ledger(), queue=queue())


@cache
def foreground() -> "Foreground":
    """Answers requests while their clients wait."""
    from sluice.handover import LambdaRunner
    from sluice.services.foreground import Foreground
    from sluice.services.wait import LONGEST_SECONDS

    current = settings()
    client = _client("lambda", **_without_retries(LONGEST_SECONDS))
    return Foreground(
        ledger=ledger(),
        queue=queue(),
        limits=request_limits(),
        runner=LambdaRunner(client, current.require("foreground_function")),
        # From the moment of the claim: until the run has begun, all of its time, and a margin as for a worker.
        lease_seconds=LONGEST_SECONDS + current.worker_timeout + current.lease_margin_seconds,
        wait_seconds=LONGEST_SECONDS,
        inputs=input_keeper(),
    )


@cache
def eraser() -> "Eraser":
    """Erases the content of requests."""
    from sluice.services.erase import Eraser

    return Eraser(ledger=ledger(), queue=queue())


@cache
def quoter() -> "Quoter":
    """Makes quotes."""
    from sluice.services.quote import Quoter

    return Quoter(ledger=ledger(), limits=request_limits())


@cache
def purger() -> "Purger":
    """Empties answer caches."""
    from sluice.services.purge import Purger

    return Purger(ledger=ledger())


@cache
def reader() -> "Reader":
    """Reads for clients."""
    from sluice.services.read import Reader

    bucket = storage if settings().storage_bucket else None
    return Reader(ledger=ledger(), storage=bucket, inputs=input_keeper())


def worker(remaining_seconds: Callable[[], float]) -> "Worker":
    """Works on the batch of one invocation, which has so much time left."""
    from sluice.services.keeping import Keeper
    from sluice.services.process import Worker, WorkerSettings

    current = settings()
    return Worker(
        ledger=ledger(),
        queue=queue(),
        backends=backends(),
        keeper=Keeper(
            storage if current.storage_bucket else None,
            inline_bytes=current.inline_result_bytes,
            max_result_bytes=current.max_result_bytes,
            max_stored_bytes=current.max_stored_bytes,
        ),
        webhooks=webhook_queue(),
        batches=batch_queue(),
        settings=WorkerSettings(
            max_result_bytes=current.max_result_bytes,
            flush_seconds=current.flush_milliseconds / 1000,
            retry_base_seconds=current.retry_base_seconds,
            lease_margin_seconds=current.lease_margin_seconds,
        ),
        remaining_seconds=remaining_seconds,
    )


def deliverer(remaining_seconds: Callable[[], float]) -> "Deliverer":
    """Delivers webhooks during one invocation, which has so much time left."""
    from sluice.db.webhooks import Webhooks
    from sluice.services.deliver import Deliverer

    return Deliverer(Webhooks(database()), webhook_sender(), remaining_seconds)


@cache
def file_manager() -> "FileManager":
    """Manages the files and uploads of callers."""
    from sluice.db.files import Files
    from sluice.services.files import FileManager

    return FileManager(Files(database()), storage, settings().max_file_bytes)


def file_image(user_id: str, file_id: UUID | None) -> str:
    """An image among the files of a user as a data URL; see sluice.services.files.image_of."""
    from sluice.db.files import Files
    from sluice.services.files import image_of

    return image_of(Files(database()), storage, user_id, file_id)


@cache
def batch_manager() -> "BatchManager":
    """Manages the batches of callers."""
    from sluice.db.batches import Batches
    from sluice.services.batches import BatchManager

    return BatchManager(Batches(database()), batch_queue())


def batch_worker(api: "LineApi", remaining_seconds: Callable[[], float]) -> "BatchWorker":
    """Works on batches during one invocation, which has so much time left.

    Args:
        api: in whose words the lines are.
    """
    from sluice.db.batches import Batches
    from sluice.services.batch_work import BatchWorker
    from sluice.services.inputs import InputKeeper

    return BatchWorker(
        batches=Batches(database()),
        ledger=ledger(),
        queue=queue(),
        storage=storage,
        inputs=InputKeeper(storage),
        api=api,
        limits=request_limits(),
        remaining_seconds=remaining_seconds,
    )


@cache
def webhook_manager() -> "WebhookManager":
    """Manages the webhooks of callers."""
    from sluice.db.webhooks import Webhooks
    from sluice.services.webhooks import WebhookManager

    return WebhookManager(Webhooks(database()), webhook_sender, webhook_queue(), settings().webhook_loopback)


def task_context(event: "TasksEvent") -> "TaskContext":
    """What the scheduled tasks of one invocation work with."""
    from sluice.db.maintenance import Maintenance
    from sluice.services.tasks.context import TaskContext

    current = settings()
    return TaskContext(
        ledger=ledger(),
        maintenance=Maintenance(database()),
        queue=queue(),
        dead_letters=dead_letters(),
        storage=storage() if current.storage_bucket else None,
        webhook_queue=webhook_queue(),
        batch_queue=batch_queue(),
        archive_after_days=current.archive_after_days,
        redispatch_grace_seconds=current.redispatch_grace_seconds,
        full=event.full,
        head=event.head,
    )


def admin_context(invocation: UUID) -> "AdminContext":
    """What administrative operations of one invocation work with."""
    from sluice.db.administration import Administration
    from sluice.db.reports import Reports
    from sluice.services.admin.operation import AdminContext

    limits = request_limits()
    return AdminContext(
        administration=Administration(database(), invocation),
        reports=Reports(database(), invocation),
        run_rollup=run_rollup,
        longest_seconds=limits.longest_seconds,
        max_attempts=limits.max_attempts,
    )


def request_limits() -> RequestLimits:
    """What a request may be."""
    current = settings()
    return RequestLimits(
        max_prompt_bytes=current.max_prompt_bytes,
        longest_seconds=current.request_ttl_seconds,
        max_attempts=current.max_attempts,
        webhook_loopback=current.webhook_loopback,
    )


# What they work with --------------------------------------------------------------------------------------------------


@cache
def database() -> Database:
    """This environment's database; connects when first used."""
    current = settings()
    return Database(lambda: connect(current))


def prepare(*providers: Callable[[], Any], connect: bool) -> None:
    """Make services, and connect, while Lambda starts this environment, before a request waits for it.

    Elsewhere it does nothing. A snapshot (SnapStart) is taken after the services were made and before the connection:
    each environment restored from it connects by itself, and draws its own random numbers.

    Never fails: what is wrong is found again, and answered, when the first request needs it.
    """
    if "LAMBDA_TASK_ROOT" not in os.environ:
        return
    for provider in providers:
        _try_early(provider)
    # What was imported stays: the garbage collector need not look through it again.
    gc.freeze()
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        # Part of the runtimes that take snapshots.
        from snapshot_restore_py import register_after_restore

        register_after_restore(random.seed)
        if connect:
            register_after_restore(_try_early, _open)
    elif connect:
        _try_early(_open)


def _open() -> None:
    database().open()


def _try_early(step: Callable[[], Any]) -> None:
    try:
        step()
    except Exception as error:  # noqa: BLE001  (an exception here would end the environment)
        logger.info("not done early", extra={"step": step.__name__, "error": type(error).__name__})


@cache
def ledger() -> Ledger:
    """Requests in the database."""
    return Ledger(database())


@cache
def queue() -> "Queue":
    """The queue of requests."""
    return _queue("queue_url")


@cache
def dead_letters() -> "Queue":
    """The queue of messages that could not be delivered."""
    return _queue("dead_letter_queue_url")


@cache
def storage() -> "Storage":
    """The bucket for what is too large for the database."""
    from sluice.storage import Storage

    # The region's own host: an address with another one would be redirected, and its signature be wrong then.
    options = {"signature_version": "s3v4", "s3": {"us_east_1_regional_endpoint": "regional"}}
    return Storage(_client("s3", **_STORAGE | options), settings().require("storage_bucket"))


@cache
def webhook_queue() -> "Queue | None":
    """The queue of messages that webhooks are due; None: this function sends none."""
    return _queue("webhook_queue_url") if settings().webhook_queue_url else None


@cache
def batch_queue() -> "Queue | None":
    """The queue of messages that batches are due; None: this function sends none."""
    return _queue("batch_queue_url") if settings().batch_queue_url else None


@cache
def webhook_sender() -> "LambdaSender":
    """Has webhooks sent by a function that can reach nothing else."""
    from sluice.handover import LambdaSender
    from sluice.services.deliver import AT_ONCE, SEND_SECONDS

    client = _client("lambda", max_pool_connections=AT_ONCE, **_without_retries(int(SEND_SECONDS)))
    return LambdaSender(client, settings().require("deliver_function"))


@cache
def backends() -> "Mapping[str, Backend]":
    """The model backends by name."""
    from sluice.backends.registry import BACKENDS, Resources

    resources = Resources(
        api_key=model_api_key,
        bedrock_client=_bedrock,
        sagemaker_client=_sagemaker,
        max_result_bytes=settings().max_result_bytes,
        max_file_bytes=settings().max_stored_bytes if settings().storage_bucket else MAX_FILE_BYTES,
    )
    return {name: make(resources) for name, make in BACKENDS.items()}


def run_rollup(event: Mapping[str, Any]) -> Any:
    """Have RollupFunction run tasks, and wait for their figures.

    Raises:
        SluiceError: task_failed; that function's log says exactly what failed.
        botocore.exceptions.ClientError: it cannot be invoked.
    """
    function = settings().require("rollup_function")
    client = _client("lambda", **_without_retries(ROLLUP_SECONDS))
    answer = client.invoke(FunctionName=function, Payload=json.dumps(event))
    if "FunctionError" in answer:
        raise SluiceError("task_failed", f"{function} failed; its log says why.")
    return json.loads(answer["Payload"].read())


@cache
def lambda_client() -> Any:
    """Lambda itself, for what concerns functions as a whole."""
    return _client("lambda")


def model_api_key(secret_arn: str) -> str:
    """The API key in a secret: its member api_key, or all of it if it is not a JSON object.

    Raises:
        ConfigurationError: the secret cannot be read or holds no such key.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        text = _secret_text(secret_arn, int(time.monotonic() // _SECRET_SECONDS))
    except (BotoCoreError, ClientError) as error:
        logger.warning("model secret cannot be read", extra={"error": type(error).__name__})
        raise ConfigurationError("the model's secret cannot be read") from None
    try:
        secret = json.loads(text)
    except ValueError:
        secret = None
    key = secret.get("api_key") if isinstance(secret, dict) else text
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError("the model's secret is neither a text nor a JSON object with a text api_key")
    return key.strip()


@cache
def _secret_text(secret_arn: str, _period: int) -> str:
    client = _client("secretsmanager")
    return str(client.get_secret_value(SecretId=secret_arn)["SecretString"])


@cache
def _bedrock(timeout_seconds: int) -> Any:
    return _client("bedrock-runtime", **_without_retries(timeout_seconds))


@cache
def _sagemaker(timeout_seconds: int) -> Any:
    return _client("sagemaker-runtime", **_without_retries(timeout_seconds))


def _without_retries(timeout_seconds: int) -> dict[str, Any]:
    # No SDK retries: PostgreSQL schedules them, and an uncounted second call would be billed but not recorded.
    return {"connect_timeout": 5, "read_timeout": timeout_seconds, "retries": {"total_max_attempts": 1}}


def _queue(setting: str) -> "Queue":
    from sluice.messaging import Queue

    return Queue(_sqs(), settings().require(setting))


@cache
def _sqs() -> Any:
    return _client("sqs")


def _client(service: str, **config: Any) -> Any:
    from sluice import aws

    return aws.client(service, settings().aws_region, **config)
