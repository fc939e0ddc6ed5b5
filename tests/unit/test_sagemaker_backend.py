"""The SageMaker backend: the real SDK against a server that answers as InvokeEndpoint does, or otherwise."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError

from sluice.backends.protocol import ModelError
from sluice.backends.sagemaker import SageMakerBackend
from sluice.domain.documents import Input, Message, TextPart
from tests.support import openai_backend
from tests.support.openai_backend import MAX_RESULT_BYTES, answer
from tests.support.sagemaker_backend import (
    CLAIM,
    COMPLETION,
    PATIENT,
    PROMPT,
    TGI,
    VECTORS,
    WORDS,
    SageMaker,
    container_error,
    error,
    generated,
    sagemaker_at,
)
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer, head

GOOD = openai_backend.GOOD
NO_COMPONENT = (
    "Inference Component Name header is required for endpoints to which you plan to deploy inference components. Please"
    " include Inference Component Name header or consider using SageMaker models."
)
TOO_LONG = "1 validation error detected: Value at '{}' failed to satisfy constraint: Member must have length less than or equal to"
TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for each"
    " container in Amazon CloudWatch, resolve the issue, and try again."
)


def test_without_a_mapping_the_container_is_asked_in_openais_form(server: ScriptedServer, sagemaker: SageMaker) -> None:
    server.replies(GOOD)
    assert sagemaker.complete(parameters={"max_tokens": 7, "seed": 3}) == COMPLETION
    (asked,) = server.received
    assert asked.path == "/endpoints/llama-endpoint/invocations"
    assert asked.json == {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 7,
        "seed": 3,
        "stream": False,
    }
    assert (asked.headers["content-type"], asked.headers["accept"]) == ("application/json", "application/json")
    assert asked.headers["authorization"].startswith("AWS4-HMAC-SHA256 ")
    assert not [name for name in asked.headers if "target" in name or "component" in name]


def test_embeddings_without_a_mapping(server: ScriptedServer, sagemaker: SageMaker) -> None:
    vectors = {"data": [{"index": 0, "embedding": [0.5, 1]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    server.replies(Reply(body=vectors))
    found = sagemaker.complete(kind="embedding", parameters={})
    assert (len(found.output.items), found.prompt_tokens, found.completion_tokens) == (1, 4, 0)
    assert server.received[0].json == {"input": [PROMPT], "encoding_format": "float"}


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("target_variant", "x-amzn-sagemaker-target-variant"),
        ("target_model", "x-amzn-sagemaker-target-model"),
        ("target_container", "x-amzn-sagemaker-target-container-hostname"),
        ("inference_component", "x-amzn-sagemaker-inference-component"),
    ],
)
def test_target_within_the_endpoint(server: ScriptedServer, sagemaker: SageMaker, name: str, header: str) -> None:
    server.replies(GOOD)
    assert sagemaker.complete(mapping={name: "b-1"}) == COMPLETION
    (asked,) = server.received
    assert asked.headers[header] == "b-1"
    assert "messages" in asked.json


def test_a_mapping_asks_and_reads_in_the_containers_form(server: ScriptedServer, sagemaker: SageMaker) -> None:
    server.replies(Reply(body=generated()))
    assert sagemaker.complete(mapping=TGI, parameters={"max_tokens": 7, "temperature": 0.5}) == COMPLETION
    assert server.received[0].json == {
        "inputs": PROMPT,
        "parameters": {
            "max_new_tokens": 7,
            "temperature": 0.5,
            "details": True,
            "decoder_input_details": True,
        },
    }


def test_vectors_by_a_mapping(server: ScriptedServer, sagemaker: SageMaker) -> None:
    texts = Input(messages=tuple(Message(role="user", content=(TextPart(text=text),)) for text in ("a", "b")))
    server.replies(Reply(body={"embeddings": [[1, 2.5], [3, 4]], "tokens": 2}))
    found = sagemaker.complete(kind="embedding", mapping=VECTORS, input=texts, parameters={})
    assert (len(found.output.items), found.prompt_tokens, found.completion_tokens) == (2, 2, 0)
    assert server.received[0].json == {"inputs": ["a", "b"], "truncate": False}


def test_client_has_the_time_limit_of_the_model(server: ScriptedServer, sagemaker: SageMaker) -> None:
    server.replies(GOOD, GOOD)
    sagemaker.complete(timeout_seconds=20)
    sagemaker.complete(timeout_seconds=40)
    assert sagemaker.limits == [20, 40]


def test_connection_is_used_again(server: ScriptedServer, sagemaker: SageMaker) -> None:
    server.replies(GOOD, GOOD)
    sagemaker.complete()
    sagemaker.complete()
    assert len({each.client for each in server.received}) == 1


# Errors of the API ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "name", "code"),
    [
        # As the service's description pairs them, and the errors that all of AWS's services have.
        (500, "InternalFailure", "model_unavailable"),
        (503, "ServiceUnavailable", "model_unavailable"),
        (530, "InternalDependencyException", "model_unavailable"),
        (429, "ModelNotReadyException", "model_unavailable"),
        (400, "ThrottlingException", "model_throttled"),
        (400, "AccessDeniedException", "model_unauthorized"),
        (403, "UnrecognizedClientException", "model_unauthorized"),
        (403, "ExpiredTokenException", "model_unauthorized"),
        (403, "InvalidSignatureException", "model_unauthorized"),
        (400, "ValidationError", "model_misconfigured"),
        # Unknown names: the status decides.
        (403, "SomethingNew", "model_unauthorized"),
        (413, "SomethingNew", "model_input_too_large"),
        (413, "", "model_input_too_large"),
        (429, "SomethingNew", "model_throttled"),
        (504, "", "model_timeout"),
        (503, "", "model_unavailable"),
    ],
)
def test_each_error_has_a_code(server: ScriptedServer, sagemaker: SageMaker, status: int, name: str, code: str) -> None:
    server.replies(error(status, name), GOOD)
    assert sagemaker.failure().code == code
    assert sagemaker.complete() == COMPLETION


@pytest.mark.parametrize(
    ("sentence", "code"),
    [
        ("Endpoint llama-endpoint of account 123456789012 not found.", "model_misconfigured"),
        ("Endpoint at-body-too of account 123456789012 not found.", "model_misconfigured"),
        (NO_COMPONENT, "model_misconfigured"),
        (f"{TOO_LONG.format('endpointName')} 63", "model_misconfigured"),
        (f"{TOO_LONG.format('body')} 6291456", "model_input_too_large"),
    ],
)
def test_a_request_that_does_not_hold_is_too_large_or_misaddressed(
    server: ScriptedServer, sagemaker: SageMaker, sentence: str, code: str
) -> None:
    server.replies(error(400, "ValidationError", sentence))
    assert sagemaker.failure().code == code


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, '{"error": {"message": "bad", "type": "BadRequestError"}}', "model_rejected"),
        (400, f"{WORDS}: {PROMPT}", "model_rejected"),
        (400, '{"message": "This model\'s maximum context length is 4096 tokens"}', "context_length_exceeded"),
        (400, "This model's maximum context length is 4096 tokens, and the prompt", "context_length_exceeded"),
        (422, '{"error": "Input validation error: `inputs` tokens + `max_new_tokens`"}', "context_length_exceeded"),
        (401, "", "model_unauthorized"),
        (404, '{"detail": "Not Found"}', "model_misconfigured"),
        (400, "<html>", "model_misconfigured"),
        (413, "", "model_input_too_large"),
        (429, '{"error": "Model is overloaded", "error_type": "overloaded"}', "model_throttled"),
        (408, "", "model_timeout"),
        (504, "", "model_timeout"),
        (500, '{"code": 500, "type": "InternalServerException", "message": "oom"}', "model_unavailable"),
        (503, "[5]", "model_unavailable"),
        (507, "null", "model_unavailable"),
        (500, "[" * 100_000, "model_unavailable"),
        # No answer of the container.
        (0, TIMED_OUT, "model_timeout"),
        (0, "Amazon SageMaker could not get a response from the primary endpoint.", "model_unavailable"),
    ],
)
def test_a_containers_error_means_what_it_would_mean_from_the_container(
    server: ScriptedServer, sagemaker: SageMaker, status: int, message: str, code: str
) -> None:
    server.replies(container_error(status, message), GOOD)
    assert sagemaker.failure().code == code
    assert sagemaker.complete() == COMPLETION


@pytest.mark.parametrize(
    "members", [{}, {"OriginalMessage": 5}, {"OriginalStatusCode": 200}, {"OriginalStatusCode": "x"}]
)
def test_a_containers_error_of_another_form_is_an_outage(
    server: ScriptedServer, sagemaker: SageMaker, members: dict[str, Any]
) -> None:
    server.replies(error(424, "ModelError", **members))
    assert sagemaker.failure().code in {"model_unavailable", "model_bad_response"}


def test_a_pause_that_is_asked_for_is_kept(server: ScriptedServer, sagemaker: SageMaker) -> None:
    server.replies(Reply(400, {"Message": "x"}, {"x-amzn-ErrorType": "ThrottlingException", "Retry-After": "17"}))
    assert sagemaker.failure().retry_after == 17


def test_call_is_not_repeated(server: ScriptedServer, sagemaker: SageMaker) -> None:
    # PostgreSQL decides whether there is another attempt.
    server.replies(error(503, "ServiceUnavailable"), GOOD)
    sagemaker.failure()
    assert len(server.received) == 1


# No answer, and answers of another form --------------------------------------------------------------------------------


def test_refused_connection_is_an_outage() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with sagemaker_at(f"http://127.0.0.1:{reserved.getsockname()[1]}") as nowhere:
            assert nowhere.failure().code == "model_unavailable"


def test_missing_credentials_are_the_operators_fault() -> None:
    def client(_: int) -> Any:
        raise NoCredentialsError

    with pytest.raises(ModelError) as caught:
        SageMakerBackend(client, MAX_RESULT_BYTES).complete(CLAIM, PATIENT)
    assert caught.value.code == "model_unauthorized"


def test_a_name_that_the_sdk_refuses_is_the_operators_fault(server: ScriptedServer, sagemaker: SageMaker) -> None:
    assert sagemaker.failure(mapping={"target_model": ""}).code == "model_misconfigured"
    assert server.received == []


def never(exchange: Exchange) -> None:
    exchange.wait()


def half_a_body(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": "100"}) + b"{")
    exchange.wait()


@pytest.mark.parametrize("reply", [never, half_a_body])
def test_missing_answer_is_a_timeout_and_the_next_call_works(
    server: ScriptedServer, sagemaker: SageMaker, reply: Callable[[Exchange], None]
) -> None:
    server.replies(reply, GOOD)
    sagemaker.read_timeout = 0.2
    assert sagemaker.failure().code == "model_timeout"
    sagemaker.read_timeout = None
    assert sagemaker.complete() == COMPLETION


def test_an_answer_after_the_deadline_is_a_timeout(server: ScriptedServer, sagemaker: SageMaker) -> None:
    server.replies(GOOD)
    assert sagemaker.failure(timeout=-1).code == "model_timeout"


def closed_at_once(exchange: Exchange) -> None:
    exchange.hang_up()


def closed_midway(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": "100"}) + b'{"choices":')
    exchange.hang_up()


@pytest.mark.parametrize("reply", [closed_at_once, closed_midway])
def test_broken_connection_is_an_outage_and_the_next_call_works(
    server: ScriptedServer, sagemaker: SageMaker, reply: Callable[[Exchange], None]
) -> None:
    server.replies(reply, GOOD)
    assert sagemaker.failure().code == "model_unavailable"
    assert sagemaker.complete() == COMPLETION


def test_an_answer_beyond_the_limit_is_not_read_to_its_end(server: ScriptedServer, sagemaker: SageMaker) -> None:
    sent: list[int] = []

    def endless(exchange: Exchange) -> None:
        exchange.write(head(200, {"Content-Length": str(10**9)}))
        try:
            for _ in range(10_000):
                exchange.write(b" " * 65_536)
                sent.append(65_536)
        except OSError:
            pass
        exchange.hang_up()

    server.replies(endless, GOOD)
    assert sagemaker.failure().code == "result_too_large"
    assert sagemaker.complete() == COMPLETION
    # What lies in the system's buffers is megabytes at most.
    assert sum(sent) < 10**8


@pytest.mark.parametrize("mapping", [None, TGI])
@pytest.mark.parametrize(
    "body", [b"", b"not JSON", b"\xff\xfe", b"null", b"5", b'"text"', b"[]", b"{}", b"[" * 60_000, b"<html>no</html>"]
)
def test_answer_of_another_form_is_a_bad_response(
    server: ScriptedServer, sagemaker: SageMaker, body: bytes, mapping: Any
) -> None:
    server.replies(Reply(body=body), GOOD)
    assert sagemaker.failure(mapping=mapping).code == "model_bad_response"
    assert sagemaker.complete() == COMPLETION


@pytest.mark.parametrize("text", [None, 5, [WORDS], {"text": WORDS}, True])
def test_a_text_of_another_type_is_a_bad_response_that_was_paid_for(
    server: ScriptedServer, sagemaker: SageMaker, text: Any
) -> None:
    server.replies(Reply(body=generated(text)))
    failed = sagemaker.failure(mapping=TGI)
    assert (failed.code, failed.is_answer) == ("model_bad_response", True)
    assert (failed.prompt_tokens, failed.completion_tokens) == (11, 5)


@pytest.mark.parametrize(
    "vectors", [None, 5, [], [[1]], [[1], [1, 2]], [1, 2], [["x"], [1]], [[], []], [[1], [2], [3]], {"0": [1]}]
)
def test_vectors_of_another_form_are_a_bad_response(server: ScriptedServer, sagemaker: SageMaker, vectors: Any) -> None:
    texts = Input(messages=tuple(Message(role="user", content=(TextPart(text=text),)) for text in ("a", "b")))
    server.replies(Reply(body={"embeddings": vectors, "tokens": 2}))
    failed = sagemaker.failure(kind="embedding", mapping=VECTORS, input=texts, parameters={})
    assert (failed.code, failed.prompt_tokens) == ("model_bad_response", 2)


def test_an_error_in_the_place_of_a_text(server: ScriptedServer, sagemaker: SageMaker) -> None:
    server.replies(Reply(body={"error": {"message": "slow down", "code": 429}}))
    assert sagemaker.failure(mapping=TGI).code == "model_throttled"
    server.replies(Reply(body=[{"error": "Request failed during generation", "error_type": "overloaded"}]))
    assert sagemaker.failure(mapping=TGI).code == "model_unavailable"


@pytest.mark.parametrize(
    "details", [{"prefill": None}, {"prefill": 5}, {"generated_tokens": None}, {"generated_tokens": -1}]
)
def test_an_answer_without_token_counts_is_an_error(
    server: ScriptedServer, sagemaker: SageMaker, details: dict[str, Any]
) -> None:
    server.replies(Reply(body=generated(**details)))
    failed = sagemaker.failure(mapping=TGI)
    assert failed.code == "model_usage_missing"
    # Another call would cost again, and its answer would lack the counts too.
    assert not failed.is_transient


def test_counts_that_are_always_zero_are_estimated(server: ScriptedServer, sagemaker: SageMaker) -> None:
    response = {"text": "generated_text", "prompt_tokens": "`0`", "completion_tokens": "`0`"}
    server.replies(Reply(body={"generated_text": WORDS}))
    found = sagemaker.complete(mapping={"request": TGI["request"], "response": response})
    assert found.doubt is not None
    assert found.doubt.flag == "estimated"
    assert found.prompt_tokens > 0
    assert found.completion_tokens > 0
    assert found.output.finish_reason is None


def test_answer_is_read_in_any_unicode(server: ScriptedServer, sagemaker: SageMaker) -> None:
    server.replies(Reply(body=json.dumps(answer("Grüße 😀"), ensure_ascii=False).encode()))
    assert sagemaker.complete().output.text == "Grüße 😀"
