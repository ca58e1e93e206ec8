"""Request bodies: every field is bounded, every refusal names the field and says what to do."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from topmast_server.api.errors import ApiError, from_validation
from topmast_server.api.protocol import ChatRequest, CompletionRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def refusal(kind: type[BaseModel], body: str) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(body)
    return from_validation(caught.value)


def chat(**fields: Any) -> str:
    return json.dumps({**CHAT, **fields})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 10**6}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 2**40}, "max_completion_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop.0"),
        ({"stop": [None]}, "stop.0"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"model": ""}, "model"),
        ({"stream": "perhaps"}, "stream"),
        ({"priority": "urgent"}, "priority"),
        ({"priority": "1"}, "priority"),
        ({"priority": 3}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": [1]}, "priority"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": 86401}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"cache_salt": 5}, "cache_salt"),
        ({"cache_salt": "x" * 257}, "cache_salt"),
        ({"timing": "perhaps"}, "timing"),
    ],
)
def test_an_absurd_value_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(ChatRequest, chat(**fields))
    assert (error.status, error.param) == (400, param)
    assert error.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True),
        ("top_logprobs", 5),
        ("logit_bias", {"1": 5}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("best_of", 3),
    ],
)
def test_a_known_field_that_we_cannot_honour_is_refused_by_name(name: str, value: object) -> None:
    message = refusal(ChatRequest, chat(**{name: value})).message
    assert name in message and "leave it out" in message


@pytest.mark.parametrize("logprobs", [0, 1, 5, True])
def test_log_probabilities_of_completions_are_refused_zero_of_them_as_well(logprobs: object) -> None:
    """0 asks for the chosen token's own, and was taken for false."""
    body = json.dumps({"model": "m", "prompt": "x", "logprobs": logprobs})
    assert "logprobs" in refusal(CompletionRequest, body).message


@pytest.mark.parametrize(
    ("given", "priority"), [("interactive", 0), ("normal", 1), ("batch", 2), (0, 0), (1, 1), (2, 2), (None, 1)]
)
def test_priorities_have_names_and_numbers(given: object, priority: int) -> None:
    assert ChatRequest.model_validate_json(chat(priority=given)).priority == priority


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": False, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "auto"},
        {"response_format": {"type": "text"}, "best_of": 1},
        {"user": "someone", "metadata": {"a": 1}, "service_tier": "auto", "a_field_of_next_year": [1]},
        {"temperature": None, "max_tokens": None, "stop": None, "n": None, "stream": None},
    ],
)
def test_no_op_values_nulls_and_unknown_fields_are_accepted(fields: dict[str, Any]) -> None:
    request = ChatRequest.model_validate_json(chat(**fields))
    assert (request.temperature, request.n, request.stop) == (1.0, 1, [])


def test_text_parts_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = ChatRequest.model_validate_json(chat(messages=[{"role": "user", "content": parts}]))
    assert request.messages[0].content == "ab"
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    error = refusal(ChatRequest, chat(messages=[{"role": "user", "content": image}]))
    assert "image_url" in error.message and "text parts only" in error.message


@pytest.mark.parametrize(("prompt", "count"), [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2], [3]], 3)])
def test_every_form_of_prompt_becomes_a_list_of_prompts(prompt: object, count: int) -> None:
    request = CompletionRequest.model_validate_json(json.dumps({"model": "m", "prompt": prompt}))
    assert len(request.prompts) == count
    assert request.token_limit == 16


@pytest.mark.parametrize("prompt", [[], [[]], ["a"] * 65, [-1], [2**40], [1.5], {"a": 1}, 5, [["a"]]])
def test_a_prompt_that_is_none_is_refused(prompt: object) -> None:
    error = refusal(CompletionRequest, json.dumps({"model": "m", "prompt": prompt}))
    assert error.status == 400 and error.param is not None and error.param.startswith("prompt")


def test_prompts_times_n_is_bounded() -> None:
    body = json.dumps({"model": "m", "prompt": ["a"] * 9, "n": 8})
    assert "64" in refusal(CompletionRequest, body).message


@pytest.mark.parametrize("body", ["", "{", "[1]", "null", "\x00", '{"model": "m"', "[" * 100_000, '{"a":' * 5_000])
def test_what_is_not_a_json_object_is_refused_with_a_sentence(body: str) -> None:
    error = refusal(ChatRequest, body)
    assert error.status == 400
    assert "JSON" in error.message
