"""Writing the answers of a batch to its files: each line in the words of its endpoint, in the order of the lines."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final, Protocol

from sluice.db.batches import Batches
from sluice.domain.batches import BatchClaim, BatchResult, WrittenFiles
from sluice.domain.errors import SluiceError
from sluice.domain.objects import StoredObject
from sluice.domain.requests import RequestDetail, Submission
from sluice.domain.states import Status
from sluice.services.inputs import InputKeeper
from sluice.storage import Storage

logger = logging.getLogger(__name__)

_RESULT_LINES: Final = 200
_RESULT_BYTES: Final = 4 * 2**20


class LineApi(Protocol):
    """The API in whose words the lines are."""

    def submission(self, endpoint: str, body: Mapping[str, Any], user_id: str) -> Submission:
        """The request that a body describes. Raises SluiceError: it describes none."""
        ...

    def answer(self, endpoint: str, detail: RequestDetail) -> Mapping[str, Any]:
        """The body with which a completed request is answered."""
        ...

    def error(self, error: SluiceError) -> tuple[int, Mapping[str, Any]]:
        """The status and the body with which an error is answered."""
        ...

    def refusal(self, refused: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """The same of what the database refused: outcome, detail, and the model that the line named."""
        ...


class AnswerWriter:
    """Writes the files of a batch, which nothing refers to before the batch is finished.

    Args:
        api: in whose words the answers are.
    """

    def __init__(
        self, batches: Batches, storage: Storage, inputs: InputKeeper, api: LineApi, claim: BatchClaim
    ) -> None:
        self._batches = batches
        self._storage = storage
        self._inputs = inputs
        self._api = api
        self._claim = claim

    def write(self) -> WrittenFiles:
        """Write all lines.

        Raises:
            SluiceError: storage_unavailable, database_unavailable: nothing was written.
        """
        files = _Files(self._storage, self._claim.user_id)
        with files:
            for result in self._results():
                self._write_line(files, result)
        return WrittenFiles(files.completed, files.expired, files.usage, files.kept("output"), files.kept("errors"))

    def _results(self) -> Iterator[BatchResult]:
        after = 0
        while found := self._batches.results(self._claim, after, _RESULT_LINES, _RESULT_BYTES):
            yield from found
            after = found[-1].line

    def _write_line(self, files: "_Files", result: BatchResult) -> None:
        line = {"id": f"batch_req_{self._claim.batch_id.hex}{result.line:06x}", "custom_id": result.custom_id}
        files.count(result)
        response: Mapping[str, Any] | None = None
        error: Mapping[str, Any] | None = None
        if result.outcome == "ok" and result.status is Status.COMPLETED:
            response, error = self._answer(result)
        elif (never := _NEVER_RUN.get(result.outcome, _NEVER_RUN.get(str(result.status)))) is not None:
            error = {"code": never[0], "message": never[1]}
        else:
            status, body = self._refusal(result)
            request_id = str(result.request_id) if result.outcome == "ok" else None
            response = {"status_code": status, "request_id": request_id, "body": body}
        is_answered = response is not None and response["status_code"] == 200
        files.write("output" if is_answered else "errors", line | {"response": response, "error": error})

    def _answer(self, result: BatchResult) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """The response of an answered line; or an error, if there is none any more."""
        try:
            body = self._api.answer(self._claim.endpoint, self._whole(result))
        except SluiceError as error:
            # Until the window has ended, whatever is away may come back.
            if error.code == "storage_unavailable" and self._claim.is_expired:
                return None, {"code": "response_unavailable", "message": "The answer cannot be read any more."}
            raise
        except Exception as error:  # noqa: BLE001  (the other lines are to be written all the same)
            logger.error("answer not shown", extra={"batch": str(self._claim.batch_id), "error": type(error).__name__})
            return None, {"code": "internal_error", "message": OUR_SIDE}
        return {"status_code": 200, "request_id": str(result.request_id), "body": body}, None

    def _refusal(self, result: BatchResult) -> tuple[int, Mapping[str, Any]]:
        refused = result.error
        if refused is None:
            return self._api.error(
                SluiceError(
                    "request_failed",
                    result.error_message or "The request failed.",
                    failure=result.error_code,
                    request_id=result.request_id,
                )
            )
        if "status_code" in refused:
            return refused["status_code"], refused["body"]
        return self._api.refusal(refused)

    def _whole(self, result: BatchResult) -> RequestDetail:
        """A request with all of its answer, and of what it asked."""
        if result.stored is not None and result.output is not None and result.output.is_elsewhere:
            content = self._storage.read(result.stored)
            result = replace(result, output=result.output.with_text(content))
        return replace(result, input=self._inputs.whole(result.input))


OUR_SIDE: Final = "Something went wrong on our side; it was logged."
_NEVER_RUN: Final[Mapping[str, tuple[str, str]]] = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed, because it or its batch was cancelled."),
    "erased": ("response_deleted", "The answer was deleted before the batch ended."),
}


class _Files:
    """The files of a batch while they are written, and what is in them."""

    def __init__(self, storage: Storage, user_id: str) -> None:
        self._storage = storage
        self._user_id = user_id
        self._writers: dict[str, Any] = {}
        self._open = ExitStack()
        self.completed = 0
        self.expired = 0
        self._tokens: Counter[str] = Counter()

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *exc: Any) -> None:
        self._open.__exit__(*exc)

    def write(self, name: str, line: Mapping[str, Any]) -> None:
        """Add a line to a file, which is begun with its first one."""
        if name not in self._writers:
            self._writers[name] = self._open.enter_context(
                self._storage.writer("files", self._user_id, "application/jsonl")
            )
        self.completed += name == "output"
        # What no encoding can write has come from a name that a client made up.
        self._writers[name].write(json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n")

    def kept(self, name: str) -> StoredObject | None:
        """The object that a file has become; None: it has no line."""
        writer = self._writers.get(name)
        return None if writer is None else writer.stored

    def count(self, result: BatchResult) -> None:
        """Add what became of a line to the figures."""
        self.expired += "expired" in (result.outcome, result.status)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"):
            self._tokens[name] += getattr(result, name) or 0

    @property
    def usage(self) -> Mapping[str, int]:
        """The tokens of all lines, also of those that failed."""
        return dict(self._tokens)
