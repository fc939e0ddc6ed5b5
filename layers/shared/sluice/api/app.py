"""A function behind HTTP: routes, and errors answered as problem details."""

import json
import re
import traceback

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter

from sluice.api.exchange import HEADERS
from sluice.api.problems import problem_details
from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.errors import SluiceError
from sluice.telemetry import logger


class _Resolver(APIGatewayHttpResolver):
    @staticmethod
    def _compile_regex(rule: str, base_regex: str = "") -> re.Pattern[str]:
        """A path as API Gateway matched it: what stands for a parameter is the parameter, to its last character.

        Powertools' own pattern drops a line feed at the end, and takes some characters for another route.
        """
        return re.compile(re.sub(r"<(\w+)>", r"(?P<\1>.+)", rule) + r"\Z", re.DOTALL)


def api_app(*routers: APIGatewayHttpRouter) -> APIGatewayHttpResolver:
    """An app with these routers, whose errors are answered as problem details (RFC 9457)."""
    app = _Resolver()
    app.exception_handler(SluiceError)(_refused)
    app.exception_handler(NotFoundError)(_route_not_found)
    app.exception_handler(Exception)(_unexpected)
    for router in routers:
        app.include_router(router)
    return app


def new_router() -> APIGatewayHttpRouter:
    """A router for api_app()."""
    return APIGatewayHttpRouter()  # type: ignore[no-untyped-call]  # Powertools has no types here


def _answer_problem(error: SluiceError) -> Response[str]:
    problem = problem_details(error)
    headers = HEADERS | rate_limit_headers(error.quotas)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if problem["status"] == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="sluice"'
    return Response(problem["status"], "application/problem+json", json.dumps(problem, default=str), headers)


def _refused(error: SluiceError) -> Response[str]:
    answer = _answer_problem(error)
    logger.info("refused", extra={"code": error.code, "status": answer.status_code})
    return answer


def _route_not_found(_: NotFoundError) -> Response[str]:
    return _answer_problem(SluiceError("route_not_found", "There is nothing under this method and path."))


def _unexpected(error: Exception) -> Response[str]:
    # Where it happened, without the message, which may quote what the client sent.
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    logger.error("unexpected error", extra={"error": type(error).__name__, "places": places[-10:]})
    return _answer_problem(SluiceError("internal_error", "Something went wrong on our side; it was logged."))
