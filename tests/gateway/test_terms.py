"""On which terms requests wait: nobody claims a better band, and time spent in the queue counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from topmast_gateway import terms
from topmast_gateway.caller import Band
from topmast_gateway.request import Ask, parse

TIMEOUT = b"x-request-timeout"


def an_ask(**fields: Any) -> Ask:
    return parse("/v1/chat/completions", json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("said", "best", "band"),
    [
        ({}, Band.NORMAL, Band.NORMAL),
        ({}, Band.INTERACTIVE, Band.NORMAL),
        ({}, Band.BATCH, Band.BATCH),
        ({"priority": 0}, Band.NORMAL, Band.NORMAL),
        ({"priority": "interactive"}, Band.INTERACTIVE, Band.INTERACTIVE),
        ({"priority": "batch"}, Band.INTERACTIVE, Band.BATCH),
        ({"priority": 1}, Band.BATCH, Band.BATCH),
    ],
)
def test_a_band_is_never_better_than_the_callers_and_the_engine_hears_it(
    said: dict[str, Any], best: Band, band: Band
) -> None:
    ask = an_ask(**said)
    assert terms.band_for(ask, best) is band
    heard = json.loads(terms.told(ask, band).body).get("priority", 1)
    assert heard in (band, band.name.lower())


def test_a_body_that_says_the_right_thing_is_passed_on_as_it_came() -> None:
    for ask, best in ((an_ask(), Band.INTERACTIVE), (an_ask(priority=2), Band.NORMAL), (an_ask(priority=0), Band(0))):
        assert terms.told(ask, terms.band_for(ask, best)) is ask


@pytest.mark.parametrize("nonsense", [True, 3, -1, "Batch", "urgent", None, [0]])
def test_nonsense_is_left_for_the_engine_to_refuse(nonsense: Any) -> None:
    ask = an_ask(priority=nonsense, timeout=nonsense if not isinstance(nonsense, int) or nonsense < 0 else None)
    assert ask.band is None and ask.timeout_s is None
    assert terms.told(ask, terms.band_for(ask, Band.NORMAL)) is ask


def test_the_last_of_two_priorities_counts_here_and_there() -> None:
    ask = parse("/v1/completions", b'{"model": "m", "priority": 2, "priority": 0}  \n')
    assert ask.band is Band.INTERACTIVE
    assert json.loads(terms.told(ask, Band.NORMAL).body)["priority"] == 1


def test_the_shorter_timeout_counts_and_the_engine_gets_what_is_left_of_it() -> None:
    ask = an_ask(timeout=20)
    headers = {TIMEOUT: b"12.5"}
    assert terms.timeout_s(ask, headers) == 12.5 and terms.timeout_s(ask, {}) == 20
    assert terms.timeout_s(an_ask(), {}) is None
    assert terms.after_waiting(headers, 12.5, 2.0)[TIMEOUT] == b"10.500"
    assert terms.after_waiting({}, 20.0, 5.0)[TIMEOUT] == b"15.000"
    assert terms.after_waiting({}, None, 5.0) == {}
    nonsense = {TIMEOUT: b"soon"}
    assert terms.after_waiting(nonsense, 20.0, 5.0) is nonsense
