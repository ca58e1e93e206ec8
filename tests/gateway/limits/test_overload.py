"""Places and bytes: never more than allowed, all given back."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.limits.overload import OverloadGuard
from topmast_gateway.messages.completion import MAX_BODY_BYTES
from topmast_gateway.messages.errors import ApiError

SIZES = st.lists(st.tuples(st.integers(0, MAX_BODY_BYTES), st.integers(0, MAX_BODY_BYTES)), max_size=30)


@given(SIZES)
def test_the_bounds_hold_and_everything_is_given_back(requests: list[tuple[int, int]]) -> None:
    admission = OverloadGuard(max_streams=10, max_bytes=4 * MAX_BODY_BYTES)
    with contextlib.ExitStack() as open_requests:
        for announced, size in requests:
            with contextlib.suppress(ApiError):
                place = open_requests.enter_context(admission.admit(announced))
                place.settle(min(size, announced or MAX_BODY_BYTES))
            assert admission.streams <= 10 and 0 <= admission.held_bytes <= 4 * MAX_BODY_BYTES
    assert (admission.streams, admission.held_bytes) == (0, 0)


def test_bodies_of_unknown_length_share_the_memory_once_they_are_small() -> None:
    admission = OverloadGuard(max_streams=100, max_bytes=2 * MAX_BODY_BYTES)
    with contextlib.ExitStack() as open_requests:
        for _ in range(50):
            open_requests.enter_context(admission.admit(0)).settle(1000)
        assert admission.held_bytes == 50_000
        for _ in range(2):
            with contextlib.suppress(ApiError):
                open_requests.enter_context(admission.admit(MAX_BODY_BYTES))
        with pytest.raises(ApiError) as refused:
            open_requests.enter_context(admission.admit(MAX_BODY_BYTES))
        assert refused.value.status == 503
