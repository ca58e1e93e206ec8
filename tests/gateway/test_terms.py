"""On which terms requests wait: nobody claims a better band, and time spent in the queue counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from topmast_gateway.identity.caller import Priority
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.requests import deadline_priority
from topmast_gateway.requests.parse import parse_completion

TIMEOUT = b"x-request-timeout"


def an_ask(**fields: Any) -> CompletionRequest:
    return parse_completion("/v1/chat/completions", json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("said", "best", "band"),
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
def test_a_band_is_never_better_than_the_callers_and_the_engine_hears_it(
    said: dict[str, Any], best: Priority, band: Priority
) -> None:
    ask = an_ask(**said)
    assert deadline_priority.effective_priority(ask, best) is band
    heard = json.loads(deadline_priority.with_priority(ask, band).body).get("priority", 1)
    assert heard in (band, band.name.lower())


def test_a_body_that_says_the_right_thing_is_passed_on_as_it_came() -> None:
    for ask, best in (
        (an_ask(), Priority.INTERACTIVE),
        (an_ask(priority=2), Priority.NORMAL),
        (an_ask(priority=0), Priority(0)),
    ):
        assert deadline_priority.with_priority(ask, deadline_priority.effective_priority(ask, best)) is ask


@pytest.mark.parametrize("nonsense", [True, 3, -1, "Batch", "urgent", None, [0]])
def test_nonsense_is_left_for_the_engine_to_refuse(nonsense: Any) -> None:
    ask = an_ask(priority=nonsense, timeout=nonsense if not isinstance(nonsense, int) or nonsense < 0 else None)
    assert ask.band is None and ask.timeout_s is None
    assert deadline_priority.with_priority(ask, deadline_priority.effective_priority(ask, Priority.NORMAL)) is ask


def test_the_last_of_two_priorities_counts_here_and_there() -> None:
    ask = parse_completion("/v1/completions", b'{"model": "m", "priority": 2, "priority": 0}  \n')
    assert ask.band is Priority.INTERACTIVE
    assert json.loads(deadline_priority.with_priority(ask, Priority.NORMAL).body)["priority"] == 1


def test_the_shorter_timeout_counts_and_the_engine_gets_what_is_left_of_it() -> None:
    ask = an_ask(timeout=20)
    headers = {TIMEOUT: b"12.5"}
    assert (
        deadline_priority.requested_timeout_s(ask, headers) == 12.5
        and deadline_priority.requested_timeout_s(ask, {}) == 20
    )
    assert deadline_priority.requested_timeout_s(an_ask(), {}) is None
    assert deadline_priority.with_remaining_timeout(headers, 12.5, 2.0)[TIMEOUT] == b"10.500"
    assert deadline_priority.with_remaining_timeout({}, 20.0, 5.0)[TIMEOUT] == b"15.000"
    assert deadline_priority.with_remaining_timeout({}, None, 5.0) == {}
    nonsense = {TIMEOUT: b"soon"}
    assert deadline_priority.with_remaining_timeout(nonsense, 20.0, 5.0) is nonsense
