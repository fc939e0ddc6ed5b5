"""What every route refuses alike: parameters that it does not know, or twice, and other spellings of an id."""

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.docs import facts
from tests.support.functions import KEYED, Answer, Context, event, load
from tests.support.service import Service

KNOWN = {
    "POST /generate": (),
    "GET /status/{request_id}": ("wait",),
    "GET /results/{request_id}": (),
    "POST /requests/{request_id}/cancel": (),
    "POST /quote": (),
    "DELETE /cache": (),
    "GET /requests": ("cursor", "end", "error_code", "limit", "model", "start", "status"),
    "GET /usage": ("by_key", "by_tag", "end", "start"),
    "GET /models": (),
    "GET /health": (),
    "GET /openapi.json": (),
}

# Of the routes that have one.
BODIES = {"POST /generate", "POST /quote"}


def call(route: str, query: str = "", request_id: str | None = None, body: str | None = None) -> Answer:
    """As API Gateway calls: it joins the values of a repeated parameter with commas."""
    method, path = route.split(" ")
    function = "status" if method == "GET" else "submit"
    path = path.replace("{request_id}", request_id or "01890a5d-ac96-774b-bcce-b302099a8057")
    joined: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    http = event(function)
    http["requestContext"]["http"] |= {"method": method, "path": path}
    http |= {"rawPath": path, "rawQueryString": query, "headers": KEYED, "queryStringParameters": joined or None}
    http["body"] = body if body is not None else '{"prompt": "hello"}' if route in BODIES else None
    answer = load(f"{function}.app").handler(http, Context())
    return answer["statusCode"], answer["headers"], json.loads(answer["body"])


@pytest.fixture(params=["submit", "status"])
def routes(request: pytest.FixtureRequest, deploy: Any, alice: bytes) -> list[str]:
    """The routes of a function, which is deployed."""
    deploy(request.param)
    return [route for route in KNOWN if route.startswith("GET") == (request.param == "status")]


def findings(answer: Answer) -> list[tuple[str, str]]:
    status, _, problem = answer
    assert (status, problem["code"]) == (422, "invalid_input")
    return [(each["pointer"], each["detail"]) for each in problem["errors"]]


def test_every_route_of_the_template_is_here() -> None:
    """But for those under /v1, which have another form: tests/integration/test_openai_*.py."""
    assert set(KNOWN) == {route for route in facts.routes() if " /v1/" not in route}


def test_unknown_parameters_are_refused(routes: list[str], service: Service) -> None:
    for route in routes:
        known = ", ".join(KNOWN[route])
        for query in ("statuss=failed", "Limit=5", "cursor%00=x", "x=1", "x=", "x"):
            ((pointer, detail),) = findings(call(route, query))
            assert pointer.startswith("/")
            assert (
                detail
                == f"is not a parameter of this route: {f'its parameters are {known}' if known else 'it has none'}"
            )
        assert len(findings(call(route, "a=1&b=2&a=3"))) == 2
    assert service.value("SELECT count(*) FROM requests") == 0


def test_parameters_given_twice_are_refused(deploy: Any, alice: bytes) -> None:
    deploy("status")
    for query, name in (
        ("limit=1&limit=1", "limit"),
        ("status=failed&status=queued", "status"),
        ("status=failed&cursor=&st%61tus=queued", "status"),
    ):
        assert findings(call("GET /requests", query)) == [(f"/{name}", "is given twice")]
    assert findings(call("GET /usage", "start=2026-11-01&start=2026-11-01")) == [("/start", "is given twice")]


def test_empty_and_wrong_values_are_refused(deploy: Any, alice: bytes) -> None:
    deploy("status")
    for route, names in KNOWN.items():
        for name in names:
            for value in ("", "%20", "null", "%00", "ö", "1,", ",queued", "queued,", "QUEUED", "done"):
                if name == "model" and value in ("null", "QUEUED", "done"):
                    continue  # a model may be called so
                if name == "by_tag" and value not in ("", "%00"):
                    continue  # and a tag almost anything
                ((pointer, _),) = findings(call(route, f"{name}={value}"))
                assert pointer == f"/{name}"
    for query in (
        "limit=0",
        "limit=101",
        "limit=1.0",
        "limit=+5",
        "limit=%D9%A5",
        "start=2026-11-01",
        "end=1795780800",
    ):
        assert len(findings(call("GET /requests", query))) == 1
    for query in (
        "start=2026-11-02T00:00:00Z&end=2026-11-01T00:00:00Z",
        "start=2026-11-02T00:00:00Z&end=2026-11-02T00:00:00Z",
    ):
        assert findings(call("GET /requests", query)) == [("", "start must be before end")]
    assert "must be one or more of queued, processing" in findings(call("GET /requests", "status=faild"))[0][1]
    assert "%2B" in findings(call("GET /requests", "start=2026-11-02T00:00:00+01:00"))[0][1]
    assert call("GET /requests", "start=2026-11-02T00:00:00%2B01:00")[0] == 200


def test_the_key_comes_first(deploy: Any, alice: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("status")
    monkeypatch.setitem(KEYED, "x-api-key", "nonsense")
    assert call("GET /requests", "x=1")[2]["code"] == "key_malformed"


SPELLINGS = (
    str.upper,
    lambda text: text.replace("-", ""),
    lambda text: text.replace("0", "\uff10"),
    lambda text: text.replace("0", "\u0660"),
    lambda text: "{" + text + "}",
    lambda text: "urn:uuid:" + text,
    lambda text: " " + text,
    lambda text: text + " ",
    lambda text: text + "\n",
    lambda text: "\n" + text,
    lambda text: text + "/",
    lambda text: text + "/x",
    lambda text: text + "\x00",
    lambda text: "%30" + text[1:],
    lambda text: text + "%0A",
    lambda text: f'"{text}"',
    lambda text: text + "\\",
    lambda text: text[:8] + text[9:],
    lambda text: text[:-1],
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_id_has_one_spelling_on_every_route(deploy: Any, service: Service, alice: bytes, spelling: Any) -> None:
    request_id = str(service.submit(alice))
    assert "0" in request_id
    other = spelling(request_id)
    assert other != request_id or not any(letter in request_id for letter in "abcdef")

    for name, route in (
        ("status", "GET /status/{request_id}"),
        ("status", "GET /results/{request_id}"),
        ("submit", "POST /requests/{request_id}/cancel"),
    ):
        deploy(name)
        status, _, problem = call(route, request_id=other)
        assert (status, problem["code"]) == (404, "request_not_found")
        assert other not in json.dumps(problem, ensure_ascii=False)
        assert call(route, request_id=request_id)[0] == (409 if "results" in route else 200)
    deploy("status")
    for cursor in {other.replace("%", "%25").replace("+", "%2B").replace("\n", "%0A").replace("\x00", "%00")}:
        assert findings(call("GET /requests", f"cursor={cursor}"))[0][0] == "/cursor"


def test_a_path_that_is_no_route_stays_none(deploy: Any, alice: bytes) -> None:
    deploy("status")
    for path in ("/", "/status", "/status/", "/requests/", "/models\n", "/modelsx", "/health/x", "/nowhere"):
        assert call(f"GET {path}")[2]["code"] == "route_not_found", path


@pytest.mark.parametrize("body", ["", " \n", "{}", " {} "])
def test_a_cancellation_has_no_body(deploy: Any, service: Service, alice: bytes, body: str) -> None:
    request_id = str(service.submit(alice))
    deploy("submit")
    assert call("POST /requests/{request_id}/cancel", request_id=request_id, body=body)[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [('{"force": true}', 422), ("[]", 422), ("null", 422), ('""', 422), ("0", 422), ("{", 400), ("reason=x", 400)],
)
def test_a_cancellation_with_a_body_is_refused(
    deploy: Any, service: Service, alice: bytes, body: str, status: int
) -> None:
    request_id = str(service.submit(alice))
    deploy("submit")
    assert call("POST /requests/{request_id}/cancel", request_id=request_id, body=body)[0] == status
    assert service.value("SELECT status FROM requests") == "queued"
