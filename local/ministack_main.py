"""Starts ministack, with four things as AWS has them. It is run by the interpreter that ministack is installed for.

Environments start a few at a time, and a request that waits for one takes another that is free before. ministack starts
one for each request that finds none free, and a burst would start so many that nothing else gets a processor for a
minute; in Lambda they start in parallel, and the rate at which they do is limited too.

When all of a function's environments are busy, an HTTP API answers 503, not 429 as ministack does. The Retry-After is
an addition: it is what the functions themselves answer when they are overloaded.

A function's reserved concurrency holds for calls through an alias too, of which ministack takes no notice.

Parts of an object, and headers of the answer, can also be asked for with the version's id.
"""

import json
import os
import threading
import time
from typing import Any

from ministack.app import main
from ministack.core import lambda_runtime
from ministack.services import lambda_svc, s3

_STARTING_AT_ONCE = max(2, os.cpu_count() or 2)
# After so long one is started in any case: those that start may wait for the one that is asked for.
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.01
_BUSY = {
    "statusCode": 503,
    "headers": {"Content-Type": "application/json", "Retry-After": "5"},
    "body": json.dumps({"message": "Service Unavailable"}),
}

_acquire = lambda_runtime.acquire_worker
_answer = lambda_svc.lambda_execute_result_to_api_proxy_response
_reserved_of = lambda_svc._reserved_concurrency
_object = s3._get_object
_choosing = threading.Lock()


def _acquire_in_turn(func_name: str, config: dict[str, Any], code_zip: bytes, qualifier: str = "$LATEST") -> Any:
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with _choosing:
            if _may_acquire(func_name, config, qualifier) or time.monotonic() > give_up_at:
                return _acquire(func_name, config, code_zip, qualifier=qualifier)
        time.sleep(_POLL_SECONDS)


def _may_acquire(func_name: str, config: dict[str, Any], qualifier: str) -> bool:
    with lambda_runtime._lock:
        own = lambda_runtime._workers.get(lambda_runtime._worker_key(func_name, config, qualifier), ())
        if any(not worker.in_use for worker in own):
            return True
        starting = sum(worker.in_use and worker._cold for pool in lambda_runtime._workers.values() for worker in pool)
        return bool(starting < _STARTING_AT_ONCE)


def _answer_or_busy(result: dict[str, Any]) -> Any:
    return (dict(_BUSY), None) if result.get("throttle") else _answer(result)


def _reserved(record: dict[str, Any] | None, config: dict[str, Any]) -> Any:
    # A version's record has no concurrency; the function's has.
    return _reserved_of(lambda_svc._functions.get(config.get("FunctionName")) or record, config)


def _object_or_part(bucket: str, key: str, headers: dict[str, str], query: dict[str, Any] | None = None) -> Any:
    current = ((s3._ensure_bucket(bucket) or {}).get("objects") or {}).get(key) or {}
    if query and s3._qp(query, "versionId", "") in ("", current.get("version_id")):
        query = {name: value for name, value in query.items() if name != "versionId"}
    return _object(bucket, key, headers, query)


lambda_svc.acquire_worker = _acquire_in_turn
s3._get_object = _object_or_part
lambda_svc._reserved_concurrency = _reserved
lambda_svc.lambda_execute_result_to_api_proxy_response = _answer_or_busy

if __name__ == "__main__":
    main()
