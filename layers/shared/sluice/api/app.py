"""A function behind HTTP: routes, and errors answered as problem details."""

import json
import re
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter

from sluice.api.exchange import HEADERS, current_unknown_keys, note_unknown_key
from sluice.api.problems import problem_details
from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.errors import SluiceError
from sluice.services.access import UnknownKeys
from sluice.telemetry import logger

# When the current request reached the function, by time.monotonic().
_reached: Final[ContextVar[float]] = ContextVar("_reached")


class _Resolver(APIGatewayHttpResolver):
    @staticmethod
    def _compile_regex(rule: str, base_regex: str = "") -> re.Pattern[str]:
        """A path as API Gateway matched it: what stands for a parameter is the parameter, to its last character.

        Powertools' own pattern drops a line feed at the end, and takes some characters for another route.
        """
        return re.compile(re.sub(r"<(\w+)>", r"(?P<\1>.+)", rule) + r"\Z", re.DOTALL)


def answer_problem(error: SluiceError) -> Response[str]:
    """An error as problem details (RFC 9457)."""
    problem = problem_details(error)
    headers = HEADERS | rate_limit_headers(error.quotas)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if problem["status"] == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="sluice"'
    if error.code == "range_not_satisfiable":
        headers["Content-Range"] = f"bytes */{error.extra.get('byte_length', '*')}"
    return Response(problem["status"], "application/problem+json", json.dumps(problem, default=str), headers)


def api_app(
    *routers: APIGatewayHttpRouter,
    unknown_keys: Callable[[], UnknownKeys] | None = None,
    answer_error: Callable[[SluiceError], Response[str]] = answer_problem,
) -> APIGatewayHttpResolver:
    """An app with these routers.

    Args:
        unknown_keys: provides what this environment remembers of unknown keys; None: nothing is remembered.
        answer_error: what an error is to its client.
    """
    app = _Resolver()
    app.use(middlewares=[_around_a_route(unknown_keys)])

    def refused(error: SluiceError) -> Response[str]:
        answer = answer_error(error)
        milliseconds = round((time.monotonic() - _reached.get()) * 1000, 1)
        logger.info("refused", extra={"code": error.code, "status": answer.status_code, "milliseconds": milliseconds})
        return answer

    def route_not_found(_: NotFoundError) -> Response[str]:
        return answer_error(SluiceError("route_not_found", "There is nothing under this method and path."))

    def unexpected(error: Exception) -> Response[str]:
        # Where it happened, without the message, which may quote what the client sent.
        places = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        logger.error("unexpected error", extra={"error": type(error).__name__, "places": places[-10:]})
        return answer_error(SluiceError("internal_error", "Something went wrong on our side; it was logged."))

    app.exception_handler(SluiceError)(refused)
    app.exception_handler(NotFoundError)(route_not_found)
    app.exception_handler(Exception)(unexpected)
    for router in routers:
        app.include_router(router)
    return app


def new_router() -> APIGatewayHttpRouter:
    """A router for api_app()."""
    return APIGatewayHttpRouter()  # type: ignore[no-untyped-call]  # Powertools has no types here


def _around_a_route(unknown_keys: Callable[[], UnknownKeys] | None) -> Callable[..., Response[Any]]:
    def around(app: APIGatewayHttpResolver, route: Callable[[APIGatewayHttpResolver], Response[Any]]) -> Response[Any]:
        _reached.set(time.monotonic())
        current_unknown_keys.set(unknown_keys() if unknown_keys else None)
        try:
            return route(app)
        except SluiceError as error:
            if error.code == "key_unknown":
                note_unknown_key(app.current_event)
            raise

    return around
