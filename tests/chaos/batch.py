"""A batch in the load: it runs beside the other requests and their faults, and the judge reads its files."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos.model import MAX_TOKENS, call_of, is_refused, tokens

ENDPOINT = "/v1/chat/completions"
_BOUNDARY = "chaos"
_CALL_SECONDS = 30.0
_TRY_SECONDS = 120.0
_PAUSE_SECONDS = 0.5
# A worker that has done nothing for so long was killed; its lease would end in two minutes.
_SILENT_SECONDS = 10


class Batch:
    """A batch of a user of its own."""

    def __init__(self, seed: int, lines: int, model: str) -> None:
        self.user_id = f"chaos-{seed}-batch"
        self._prompts = {f"line {n}": f"Seed {seed}, line {n} of the batch: what is to be said?" for n in range(lines)}
        self._model = model
        self._id = ""

    def begin(self, url: str, key: str) -> None:
        """Upload the lines and make the batch."""
        self._url, self._key = url, key
        lines = [
            {
                "custom_id": name,
                "method": "POST",
                "url": ENDPOINT,
                "body": {
                    "model": self._model,
                    "max_tokens": MAX_TOKENS,
                    "messages": [{"role": "user", "content": prompt}],
                },
            }
            for name, prompt in self._prompts.items()
        ]
        content = "\n".join(json.dumps(each) for each in lines)
        form = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="lines.jsonl"\r\n\r\n{content}\r\n'
            f"--{_BOUNDARY}--\r\n"
        )
        file = self._call("POST", "/v1/files", form.encode(), f"multipart/form-data; boundary={_BOUNDARY}")
        asked = {"input_file_id": json.loads(file)["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        self._id = json.loads(self._call("POST", "/v1/batches", json.dumps(asked).encode()))["id"]

    def drain(self, database_url: str, seconds: float) -> Iterator[str]:
        """Wait until it has ended; a sentence if it does not."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with psycopg.connect(database_url, autocommit=True) as database:
                    database.execute(
                        "UPDATE batches SET leased_until = now() WHERE leased_until BETWEEN now()"
                        " AND now() + interval '2 minutes' - make_interval(secs => %s) AND ended_at IS NULL",
                        (_SILENT_SECONDS,),
                    )
                    left = database.execute(
                        "SELECT status FROM batches WHERE user_id = %s AND ended_at IS NULL", (self.user_id,)
                    ).fetchone()
            except psycopg.OperationalError:
                left = ("unknown",)
            if left is None:
                return
            if time.monotonic() > deadline:
                yield f"the batch has not ended: it is {left[0]}"
                return
            time.sleep(_PAUSE_SECONDS)

    def judge(self, database_url: str, model: Any) -> Iterator[str]:
        """Sentences about everything that is wrong.

        Args:
            model: how often it was asked each prompt.
        """
        batch = json.loads(self._call("GET", f"/v1/batches/{self._id}"))
        if batch["status"] != "completed":
            yield f"the batch is {batch['status']}: {batch['errors']}"
            return
        output, errors = self._lines(batch["output_file_id"]), self._lines(batch["error_file_id"])
        names = list(self._prompts)
        for kind, lines in (("output", output), ("error", errors)):
            found = [each["custom_id"] for each in lines]
            if found != sorted(found, key=names.index):
                yield f"the batch's {kind} file is not in order"
        if sorted(each["custom_id"] for each in output + errors) != sorted(names):
            yield f"the batch has {len(output)} answers and {len(errors)} errors of {len(names)} lines, or some twice"
        counts = {"total": len(names), "completed": len(output), "failed": len(errors)}
        if batch["request_counts"] != counts:
            yield f"the batch counts {batch['request_counts']}, and its files have {counts}"
        with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as database:
            rows = database.execute(
                "SELECT r.*, p.prompt FROM requests r JOIN prompts p USING (request_id) WHERE r.user_id = %s",
                (self.user_id,),
            ).fetchall()
        asked = [row["prompt"] for row in rows]
        if sorted(asked) != sorted(self._prompts.values()):
            yield f"{len(names)} lines have become {len(asked)} requests of {len(set(asked))} questions"
        booked = {str(row["request_id"]): row for row in rows}
        for each in output:
            prompt, response = self._prompts[each["custom_id"]], each["response"]
            call = call_of(prompt, response["body"]["choices"][0]["message"]["content"])
            row = booked.get(response["request_id"])
            if call is None or call > model[prompt] or row is None:
                yield f"{each['custom_id']} of the batch has an answer that the model never gave"
            elif (row["prompt_tokens"], row["completion_tokens"]) != tokens(prompt, call):
                yield f"{each['custom_id']} of the batch was booked with other tokens than its answer's"
        for each in errors:
            if not is_refused(self._prompts[each["custom_id"]]):
                yield f"{each['custom_id']} of the batch failed, and the model does not refuse it: {each}"

    def _lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        content = self._call("GET", f"/v1/files/{file_id}/content").decode()
        return [json.loads(each) for each in content.split("\n") if each]

    def _call(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """Call until there is an answer; a repeated upload is another file, and a batch that is made twice shows."""
        deadline = time.monotonic() + _TRY_SECONDS
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": kind}
        while True:
            request = urllib.request.Request(self._url + path, body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=_CALL_SECONDS) as response:
                    content: bytes = response.read()
                    return content
            except urllib.error.HTTPError as error:
                with error:
                    if error.code < 500 or time.monotonic() > deadline:
                        raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_SECONDS)
