"""Managing batches: what their users do through the API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sluice.db.batches import Batches
from sluice.domain.errors import SluiceError
from sluice.messaging import Waker
from sluice.services.access import refuse_unless_allowed

_NOT_FOUND: Final = "You have no batch with this id."


@dataclass(frozen=True)
class BatchManager:
    """Does what a caller wants done about batches.

    Attributes:
        queue: is woken up when a batch is to be worked on; None: nobody is, and it is within a minute.
    """

    batches: Batches
    queue: Waker | None

    def create(
        self,
        key_hash: bytes,
        *,
        input_file_id: UUID | None,
        endpoint: str,
        completion_window: str,
        metadata: Mapping[str, str] | None,
        output_expires_seconds: int | None,
    ) -> dict[str, Any]:
        """Make a batch of the lines of a file.

        Args:
            input_file_id: None if what the caller gave is not an id; the key is checked all the same.
            output_expires_seconds: how long its files are kept; None: until they are deleted.

        Raises:
            SluiceError: file_not_found, batch_file_unfit, batch_file_too_large, batches_exceeded; what key_check
                finds; database_unavailable.
        """
        batch: dict[str, Any] = self._do(
            key_hash,
            "create",
            input_file_id=None if input_file_id is None else str(input_file_id),
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            output_expires_seconds=output_expires_seconds,
        )
        self._wake()
        return batch

    def show(self, key_hash: bytes, batch_id: UUID | None) -> dict[str, Any]:
        """One batch of the caller.

        Raises:
            SluiceError: batch_not_found, also for another user's; what key_check finds; database_unavailable.
        """
        batch: dict[str, Any] = self._do(key_hash, "show", batch_id=None if batch_id is None else str(batch_id))
        return batch

    def page(self, key_hash: bytes, limit: int, after: UUID | None) -> list[dict[str, Any]]:
        """A page of the caller's batches, newest first, and one more if there is one.

        Args:
            after: the batch after which to go on.

        Raises:
            SluiceError: what key_check finds; database_unavailable.
        """
        found: list[dict[str, Any]] = self._do(
            key_hash, "list", limit=limit + 1, after=None if after is None else str(after)
        )
        return found

    def cancel(self, key_hash: bytes, batch_id: UUID | None) -> dict[str, Any]:
        """Let nothing more of a batch be started. Safe to repeat.

        Raises:
            SluiceError: batch_not_found; batch_finished; what key_check finds; database_unavailable.
        """
        batch: dict[str, Any] = self._do(key_hash, "cancel", batch_id=None if batch_id is None else str(batch_id))
        self._wake()
        return batch

    def _wake(self) -> None:
        if self.queue is not None:
            self.queue.wake()

    def _do(self, key_hash: bytes, act: str, **arguments: Any) -> Any:
        answer = self.batches.manage(key_hash, act, **arguments)
        refuse_unless_allowed(answer.outcome)
        facts = answer.value
        match answer.outcome:
            case "ok":
                return facts
            case "file_not_found":
                raise SluiceError("file_not_found", "You have no file with this id.", param="input_file_id")
            case "batch_file_unfit":
                raise SluiceError(
                    "batch_file_unfit",
                    f"The file was uploaded for the purpose {facts['purpose']!r}. Upload it with the purpose 'batch'.",
                    param="input_file_id",
                )
            case "batch_file_too_large":
                raise SluiceError(
                    "batch_file_too_large",
                    f"The file has {facts['byte_length']} bytes; a batch may have {facts['most']}. Make several of it.",
                    param="input_file_id",
                )
            case "batches_exceeded":
                raise SluiceError(
                    "batches_exceeded",
                    f"{facts['most']} of your batches have not ended, the most there may be. Wait for one of them.",
                )
            case "batch_finished":
                raise SluiceError("batch_finished", f"The batch has ended: it is {facts['status']}.")
        raise SluiceError("batch_not_found", _NOT_FOUND)
