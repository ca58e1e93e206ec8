"""Places and bytes: never more than allowed, all given back, and no caller's are everybody's."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.limits.overload import OverloadGuard
from topmast_gateway.messages.completion import MAX_BODY_BYTES
from topmast_gateway.messages.errors import ApiError

REQUESTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, MAX_BODY_BYTES), max_size=4), st.booleans()), max_size=30
)


@given(REQUESTS)
def test_the_bounds_hold_and_everything_is_given_back(requests: list[tuple[str, list[int], bool]]) -> None:
    guard = OverloadGuard(max_streams=10, max_bytes=4 * MAX_BODY_BYTES)
    with contextlib.ExitStack() as open_requests:
        for caller, pieces, ends in requests:
            with contextlib.suppress(ApiError), contextlib.ExitStack() as one:
                place = one.enter_context(guard.admit(caller))
                for piece in pieces:
                    place.grow(piece)
                if not ends:
                    open_requests.push(one.pop_all())
            assert guard.streams <= 10 and 0 <= guard.held_bytes <= 4 * MAX_BODY_BYTES
    assert (guard.streams, guard.held_bytes, not guard._places._held, not guard._bytes._held) == (0, 0, True, True)


def test_a_body_that_is_announced_and_does_not_come_holds_nothing() -> None:
    """64 of them had the whole memory, and shut everybody out."""
    guard = OverloadGuard(max_streams=2000)
    with contextlib.ExitStack() as idle:
        for _ in range(1400):
            idle.enter_context(guard.admit("mallory")).grow(5)
        with guard.admit("alice") as place:
            place.grow(MAX_BODY_BYTES)


@pytest.mark.parametrize("greedy", [1, 2, 5, 20])
def test_callers_who_take_all_they_get_leave_places_for_the_next(greedy: int) -> None:
    guard = OverloadGuard(max_streams=2000)
    with contextlib.ExitStack() as held:
        refused = dict.fromkeys(range(greedy), False)
        while not all(refused.values()):
            for number in refused:
                try:
                    held.enter_context(guard.admit(f"greedy-{number}"))
                except ApiError as refusal:
                    assert (refusal.status, refusal.code) == (429, "rate_limit_exceeded")
                    refused[number] = True
        for _ in range(20):
            held.enter_context(guard.admit("alice"))


@pytest.mark.parametrize("greedy", [1, 2, 5])
def test_callers_who_take_all_the_memory_they_get_leave_some_for_the_next(greedy: int) -> None:
    guard = OverloadGuard(max_streams=2000)
    with contextlib.ExitStack() as held:
        refused = dict.fromkeys(range(greedy), False)
        while not all(refused.values()):
            for number in refused:
                try:
                    held.enter_context(guard.admit(f"greedy-{number}")).grow(MAX_BODY_BYTES)
                except ApiError as refusal:
                    assert refusal.status == 429
                    refused[number] = True
        held.enter_context(guard.admit("alice")).grow(MAX_BODY_BYTES)


def test_one_who_is_alone_gets_most_of_it_and_a_full_gateway_says_so() -> None:
    guard = OverloadGuard(max_streams=100)
    with contextlib.ExitStack() as held:
        for _ in range(75):
            held.enter_context(guard.admit("alice"))
        with pytest.raises(ApiError) as own:
            held.enter_context(guard.admit("alice"))
        assert own.value.status == 429 and "75 of the 100" in str(own.value)
        for number in range(25):
            held.enter_context(guard.admit(f"other-{number}"))
        with pytest.raises(ApiError) as full:
            held.enter_context(guard.admit("one-more"))
        assert (full.value.status, full.value.code) == (503, "gateway_full")
