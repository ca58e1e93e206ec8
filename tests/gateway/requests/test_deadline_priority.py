"""On which terms requests wait: nobody claims a better priority, and time spent in the queue counts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.lab.exchanges import a_writer
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.identity.caller import Priority
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.requests.deadline_priority import (
    deadline_of,
    effective_priority,
    with_priority,
)
from topmast_gateway.requests.parse import parse_completion

TIMEOUT = b"x-request-timeout"


def a_request(**fields: Any) -> CompletionRequest:
    return parse_completion("/v1/chat/completions", json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("said", "best", "priority"),
    [
        ({}, Priority.NORMAL, Priority.NORMAL),
        ({}, Priority.INTERACTIVE, Priority.NORMAL),
        ({}, Priority.BATCH, Priority.BATCH),
        ({"priority": 0}, Priority.NORMAL, Priority.NORMAL),
        ({"priority": "interactive"}, Priority.INTERACTIVE, Priority.INTERACTIVE),
        ({"priority": "batch"}, Priority.INTERACTIVE, Priority.BATCH),
        ({"priority": 1}, Priority.BATCH, Priority.BATCH),
    ],
)
def test_a_priority_is_never_better_than_the_callers_and_the_engine_hears_it(
    said: dict[str, Any], best: Priority, priority: Priority
) -> None:
    request = a_request(**said)
    assert effective_priority(request, best) is priority
    heard = json.loads(with_priority(request, priority).body).get("priority", 1)
    assert heard in (priority, priority.name.lower())


def test_a_body_that_says_the_right_thing_is_passed_on_as_it_came() -> None:
    for request, best in (
        (a_request(), Priority.INTERACTIVE),
        (a_request(priority=2), Priority.NORMAL),
        (a_request(priority=0), Priority(0)),
    ):
        assert with_priority(request, effective_priority(request, best)) is request


@pytest.mark.parametrize("nonsense", [True, 3, -1, "Batch", "urgent", None, [0]])
def test_nonsense_is_left_for_the_engine_to_refuse(nonsense: Any) -> None:
    request = a_request(priority=nonsense, timeout=nonsense if not isinstance(nonsense, int) or nonsense < 0 else None)
    assert request.priority is None and request.timeout_s is None
    assert with_priority(request, effective_priority(request, Priority.NORMAL)) is request


def test_the_last_of_two_priorities_counts_here_and_there() -> None:
    request = parse_completion("/v1/completions", b'{"model": "m", "priority": 2, "priority": 0}  \n')
    assert request.priority is Priority.INTERACTIVE
    assert json.loads(with_priority(request, Priority.NORMAL).body)["priority"] == 1


def towards_engine(headers: dict[bytes, bytes], left_s: float | None) -> str | None:
    """The timeout that an engine is sent, when the caller has so many seconds left."""
    deadline = None if left_s is None else time.monotonic() + left_s
    state = AnswerState(a_request(), "ns/m", headers, a_writer(), TokenUsage(), deadline, lambda _: None)
    return state.headers().get(TIMEOUT.decode())


def test_the_shorter_timeout_counts_and_the_engine_gets_what_is_left_of_it() -> None:
    request = a_request(timeout=20)
    headers = {TIMEOUT: b"12.5"}
    assert deadline_of(request, headers, 100.0) == 112.5 and deadline_of(request, {}, 100.0) == 120
    assert deadline_of(a_request(), {}, 100.0) is None and deadline_of(a_request(), {TIMEOUT: b"soon"}, 1.0) is None
    assert 10 < float(towards_engine(headers, 10.5) or 0) <= 10.5
    assert towards_engine({}, None) is None
    assert towards_engine({TIMEOUT: b"soon"}, 15.0) == towards_engine({TIMEOUT: b"soon"}, None) == "soon"
