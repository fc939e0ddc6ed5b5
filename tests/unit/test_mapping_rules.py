"""Mappings as they are set: what can be used is taken, and what cannot is refused in one sentence."""

import re
from typing import Any

import pytest
from botocore.session import get_session

from sluice.api.openai.chat import ChatRequest
from sluice.backends import sagemaker
from sluice.backends.mapping import CHAT_PLACEHOLDERS, EMBEDDING_PLACEHOLDERS, PARAMETERS, TARGETS
from sluice.backends.mapping_rules import MOST_BYTES, check_mapping
from sluice.domain.errors import SluiceError
from sluice.services.admin.models import ModelSet
from sluice.validation import parse_object
from tests.support.sagemaker_backend import TGI, VECTORS

COUNTS = {"prompt_tokens": "a", "completion_tokens": "b"}
READ = {"text": "t"} | COUNTS
DEEP: Any = "{{prompt}}"
for _ in range(30):
    DEEP = {"a": DEEP}


def chat(request: Any = None, **response: Any) -> dict[str, Any]:
    return {"request": {"p": "{{prompt}}"} if request is None else request, "response": READ | response}


@pytest.mark.parametrize(
    "mapping",
    [
        TGI,
        VECTORS,
        chat(),
        chat({name: f"{{{{{name}}}}}" for name in CHAT_PLACEHOLDERS}),
        chat({"m": ["{{messages}}"], "text": "one { brace } only", "n": [None, 1.5, True]}),
        chat(text="join('', outputs[*].text)", prompt_tokens="`0`", completion_tokens="usage.out || `0`"),
        chat(text="not_null(a, b, c)", finish_reason="choices[?index==`0`].reason | [0]"),
        {
            "request": {name: f"{{{{{name}}}}}" for name in EMBEDDING_PLACEHOLDERS},
            "response": {"vectors": "@", "prompt_tokens": "`0`"},
        },
        {"target_variant": "blue"},
        {"inference_component": "llama-3-8b", "target_model": "some/path model.tar.gz"},
        {"target_container": "a"} | chat(),
    ],
)
def test_a_mapping_that_can_be_used_is_taken(mapping: dict[str, Any]) -> None:
    assert check_mapping(mapping) == mapping


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({}, "must be an object with request and response, a target, or both"),
        ({"answer": {}}, "has the unknown member answer; there are request, response, target_variant"),
        ({"request": {"p": "{{prompt}}"}}, "needs both request and response"),
        ({"response": READ}, "needs both request and response"),
        ({"request": "{{messages}}", "response": READ}, "needs both request and response, two objects"),
        ({"request": {"p": "{{prompt}}"}, "response": None}, "needs both request and response"),
        (chat({"p": "x" * MOST_BYTES}), f"must not be larger than {MOST_BYTES} bytes"),
        (chat(DEEP), "request must not be nested deeper than 20 levels"),
        (chat({"p": "{{promt}}"}), "request has the unknown placeholder promt; for models of chats there are prompt"),
        (chat({"p": "{{texts}}"}), "request has the unknown placeholder texts"),
        (chat({"p": {"q": ["[INST] {{prompt}}"]}}), "request.p.q[0] must be one placeholder alone"),
        (chat({"p": "{{prompt}}{{seed}}"}), "request.p must be one placeholder alone"),
        (chat({"p": "{{ prompt }}"}), "request.p must be one placeholder alone"),
        (chat({"p": "{{Prompt}}"}), "request.p must be one placeholder alone"),
        (chat({"p": "{{prompt}}\n"}), "request.p must be one placeholder alone"),
        (chat({"p": "prompt}}"}), "request.p must be one placeholder alone"),
        (chat({"{{prompt}}": 1}), "the name {{prompt}} in request must not have {{ or }}"),
        (chat({"p": "{{prompt}}", "q": "\x00"}), "request.q must not contain the character U+0000"),
        (chat({"p": "{{prompt}}", "\x00": 1}), "must not contain the character U+0000"),
        (chat({"p": "{{prompt}}", "q": float("inf")}), "request.q must be a finite number"),
        (chat({"p": "{{prompt}}", "a\nb": "{{"}), "request.a\\nb must be one placeholder alone"),
        (chat({"p": 1}), "request needs the placeholder {{prompt}} or {{messages}}"),
        (chat({"p": "{{max_tokens}}"}), "request needs the placeholder {{prompt}} or {{messages}}"),
        ({"request": {"p": "{{prompt}}"}, "response": COUNTS}, "response needs an expression for text, or for vectors"),
        (chat(vectors="v"), "response needs an expression for text, or for vectors"),
        ({"request": {"p": "{{prompt}}"}, "response": {"text": "t", "prompt_tokens": "p"}},
         "response needs an expression for completion_tokens: a request cannot be accounted for"),
        (chat(usage="u"), "has the unknown member response.usage; there are text, prompt_tokens"),
        (chat(text=""), "response.text must be a JMESPath expression of at most 500 characters"),
        (chat(text="  "), "response.text must be a JMESPath expression"),
        (chat(text=5), "response.text must be a JMESPath expression"),
        (chat(text="a" * 501), "response.text must be a JMESPath expression of at most 500 characters"),
        (chat(text="[0].generated_text["), "response.text is no JMESPath expression"),
        (chat(text="a b"), "response.text is no JMESPath expression, at character 3"),
        (chat(text="[0]..x"), "response.text is no JMESPath expression"),
        (chat(finish_reason="'x"), "response.finish_reason is no JMESPath expression"),
        (chat(text="[" * 250), "response.text is "),
        (chat(text="(" * 250), "response.text is "),
        (chat(prompt_tokens="len(a)"), "response.prompt_tokens calls len, which is no function of JMESPath"),
        (chat(prompt_tokens="a[*].b | sum(@, c)"), "response.prompt_tokens calls sum with 2 arguments instead of 1"),
        (chat(prompt_tokens="not_null()"), "response.prompt_tokens calls not_null with 0 arguments instead of 1"),
        ({"request": {"p": 1}, "response": {"vectors": "v", "prompt_tokens": "p"}},
         "request needs the placeholder {{texts}}"),
        ({"request": {"p": "{{texts}}"}, "response": {"vectors": "v"}}, "response needs an expression for prompt_tokens"),
        ({"request": {"p": ["{{texts}}", "{{prompt}}"]}, "response": {"vectors": "v", "prompt_tokens": "p"}},
         "request has the unknown placeholder prompt; for models of embeddings there are texts, dimensions"),
        ({"request": {"p": "{{texts}}"}, "response": {"vectors": "v", "prompt_tokens": "p", "finish_reason": "f"}},
         "has the unknown member response.finish_reason"),
        ({"target_variant": ""}, "target_variant must be a name as SageMaker has it, of at most 63 characters"),
        ({"target_variant": "a b"}, "target_variant must be a name"),
        ({"target_variant": "a\n"}, "target_variant must be a name"),
        ({"inference_component": "a" * 64}, "inference_component must be a name"),
        ({"target_model": "a\r\nX-Header: b"}, "target_model must be a name as SageMaker has it, of at most 1024"),
        ({"target_model": "a" * 1025}, "target_model must be a name"),
        ({"target_container": 5}, "target_container must be a name"),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_be_used_is_refused_in_one_sentence(mapping: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        check_mapping(mapping)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mapping", [5, [], "x", True])
def test_a_mapping_is_an_object(mapping: Any) -> None:
    with pytest.raises(ValueError, match="must be an object"):
        check_mapping(mapping)


def test_the_operations_error_says_where_and_why() -> None:
    with pytest.raises(SluiceError) as caught:
        parse_object(ModelSet, {"model_id": "m", "mapping": chat(text="a b")})
    assert caught.value.code == "invalid_input"
    assert caught.value.detail == "/mapping: response.text is no JMESPath expression, at character 3."


def test_null_removes_a_mapping() -> None:
    given = parse_object(ModelSet, {"model_id": "m", "mapping": None})
    assert given.mapping is None
    assert "mapping" in given.model_fields_set


def test_parameters_are_those_that_requests_may_have() -> None:
    spoken = {"messages": [{"role": "user", "content": "a"}]}
    parameters: dict[str, Any] = dict.fromkeys(PARAMETERS, 1) | {"stop": "x", "reasoning_effort": "low"}
    submission = parse_object(ChatRequest, spoken | parameters).submission()
    assert set(submission.parameters) == set(PARAMETERS)


def test_targets_have_a_parameter_of_the_api() -> None:
    described = get_session().get_service_model("sagemaker-runtime").operation_model("InvokeEndpoint").input_shape
    assert described is not None
    assert tuple(sagemaker._TARGETS) == TARGETS
    assert set(sagemaker._TARGETS.values()) <= set(described.members)
