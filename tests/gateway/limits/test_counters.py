"""Counts of several gateways: any order and number of exchanges gives the same sums, and nothing is kept for ever."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.growth import assert_linear, most_s, without_collections
from topmast_gateway.limits import periods
from topmast_gateway.limits.counters import Counters

NOW = 1_800_000_000.0
DAY = periods.name("day", NOW)
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["add", "report"]), st.integers(0, 2), st.integers(1, 50)), max_size=40
)


@given(STEPS)
def test_replicas_agree_on_the_exact_sum_whatever_was_exchanged_when(steps: list[tuple[int, str, int, int]]) -> None:
    replicas, known = [Counters(f"r{number}") for number in range(3)], dict[tuple[int, int], int]()
    for one, what, other, amount in steps:
        if what == "add":
            replicas[one].add("alice", DAY, requests=1, charged=amount, refunded=amount // 2)
        else:  # a page of what changed since `other` asked last, reported twice
            changes, known[one, other] = replicas[one].changes(known.get((one, other), 0), most=amount)
            replicas[other].merge(changes, NOW)
            replicas[other].merge(changes, NOW)
    for one in replicas:
        for other in replicas:
            other.merge(one.changes()[0], NOW)
    added = [amount for _, what, _, amount in steps if what == "add"]
    for _ in range(2):
        for one in replicas:
            assert one.tokens("alice", DAY) == sum(amount - amount // 2 for amount in added)
            assert one.requests("alice", DAY) == len(added)


def test_a_restarted_gateway_gets_its_totals_back_from_a_peer() -> None:
    old, peer = Counters("old"), Counters("peer")
    old.add("alice", "total", charged=700)
    peer.add("alice", "total", charged=50)
    peer.merge(old.changes()[0], NOW)
    new = Counters("new")
    new.merge(peer.changes()[0], NOW)
    new.add("alice", "total", charged=1)
    assert new.tokens("alice", "total") == 751
    peer.merge(new.changes()[0], NOW)
    assert peer.tokens("alice", "total") == 751


def test_nothing_new_is_not_reported_again() -> None:
    one, other = Counters("one"), Counters("other")
    one.add("alice", DAY, charged=5)
    other.merge(one.changes()[0], NOW)
    version = other.version
    other.merge(one.changes()[0], NOW)
    assert other.version == version and other.changes(version) == ([], version)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 9)), max_size=40), st.integers(1, 7), st.integers(0, 40)
)
def test_pages_bring_every_change_and_no_page_is_long(adds: list[tuple[str, int]], most: int, first: int) -> None:
    counters, seen, reached = Counters("one"), Counters("two"), 0
    for number, (caller, tokens) in enumerate(adds):
        counters.add(caller, DAY, charged=tokens)
        if number == first:
            rows, reached = counters.changes(0, most)
            seen.merge(rows, NOW)
    while True:
        rows, reached = counters.changes(reached, most)
        assert len(rows) <= most
        seen.merge(rows, NOW)
        if reached == counters.version:
            break
    assert all(seen.tokens(caller, DAY) == counters.tokens(caller, DAY) for caller in "abcd")


def test_no_second_takes_long_with_hundreds_of_thousands_of_counts() -> None:
    """Forgetting looked at all of them every second: a quarter of one with 600,000."""
    counters, minute = Counters("one"), periods.name("minute", NOW)
    for number in range(200_000):
        counters.add(f"caller-{number}", minute, charged=1)
    for number in range(20_000):
        counters.add(f"caller-{number}", DAY, charged=1)
    assert_linear(lambda _: None, lambda _: counters.forget(NOW), 1)
    assert len(counters) == 220_000
    assert_linear(lambda _: None, lambda _: counters.changes(counters.version - 100, 5000), 1)
    assert_linear(lambda _: None, lambda _: counters.changes(0, 5000), 1)
    later, took_s = NOW + 300, list[float]()
    with without_collections():
        while len(counters) > 20_000:
            before = time.thread_time()
            counters.forget(later)
            took_s.append(time.thread_time() - before)
    assert len(took_s) == 20 and len(counters) == 20_000
    assert statistics.median(took_s) < most_s()


def test_a_year_of_minutes_days_and_months_leaves_two_of_each() -> None:
    counters = Counters("one")
    for day in range(366):
        at = NOW + day * 86_400
        for kind in ("minute", "day", "month", "total"):
            counters.add("alice", periods.name(kind, at), charged=1)
        counters.forget(at)
        assert len(counters) <= 6
    assert counters.tokens("alice", "total") == 366


def test_old_periods_are_not_taken_from_others_and_a_clock_ahead_is() -> None:
    counters = Counters("one")
    old, ahead = periods.name("minute", NOW - 180), periods.name("minute", NOW + 60)
    counters.merge([["r", "alice", old, 1, 5, 0], ["r", "alice", ahead, 1, 7, 0]], NOW)
    assert (counters.tokens("alice", old), counters.tokens("alice", ahead)) == (0, 7)


@pytest.mark.parametrize(
    "row",
    [
        [],
        ["r", "c", DAY, 1, 2],
        ["r", "c", DAY, -1, 0, 0],
        ["r", "c", DAY, 1, 2.5, 0],
        ["r" * 600, "c", DAY, 1, 1, 0],
        7,
    ],
)
def test_what_is_no_count_changes_nothing(row: Any) -> None:
    counters = Counters("one")
    with pytest.raises(ValueError, match="not a count"):
        counters.merge([["r", "alice", DAY, 1, 1, 0], row], NOW)
    assert len(counters) == 0


@given(st.integers(0, 4_000_000_000))
def test_periods_follow_the_calendar(at: int) -> None:
    for kind in ("minute", "day", "month"):
        left_s = periods.seconds_left(kind, at)
        assert left_s is not None and left_s > 0
        now, following = periods.name(kind, at), periods.name(kind, at + left_s)
        assert periods.name(kind, at + left_s - 1) == now != following
        assert periods.oldest_kept(at + left_s)[len(now)] == now
    assert periods.name("month", at) == time.strftime("%Y-%m", time.gmtime(at))
