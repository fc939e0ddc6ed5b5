"""Starts ministack, with what API Gateway answers when all of a function's environments are busy.

ministack answers 429, without saying when to come back. An HTTP API answers 503; so that clients can be tried here with
what the functions themselves answer, this adds the Retry-After that they send. It is run by the interpreter that
ministack is installed for, as a file.
"""

import json
from typing import Any

from ministack.app import main
from ministack.services import lambda_svc

_answer = lambda_svc.lambda_execute_result_to_api_proxy_response
_BUSY = {
    "statusCode": 503,
    "headers": {"Content-Type": "application/json", "Retry-After": "5"},
    "body": json.dumps({"message": "Service Unavailable"}),
}


def _answer_or_busy(result: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    return (dict(_BUSY), None) if result.get("throttle") else _answer(result)


lambda_svc.lambda_execute_result_to_api_proxy_response = _answer_or_busy

if __name__ == "__main__":
    main()
