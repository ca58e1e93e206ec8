"""Connections: never more than there may be, and no address has them all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.http.connection_limits import ConnectionLimits

ADDRESSES = ("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "unknown")


@given(st.lists(st.tuples(st.sampled_from(ADDRESSES), st.booleans()), max_size=80))
def test_the_bound_holds_and_everything_is_given_back(steps: list[tuple[str, bool]]) -> None:
    limits, held = ConnectionLimits(12), list[str]()
    for address, enters in steps:
        if enters and limits.enter(address):
            held.append(address)
        elif not enters and held:
            limits.leave(held.pop())
        assert limits.open == len(held) <= 12
    for address in held:
        limits.leave(address)
    assert limits.open == 0 and not limits._places._held


def test_one_address_leaves_some_for_the_others_and_a_network_of_ipv6_is_one() -> None:
    limits = ConnectionLimits(100)
    assert sum(limits.enter(f"2001:db8::{number}") for number in range(200)) == 75
    assert sum(limits.enter("10.0.0.1") for _ in range(200)) == 19
    assert limits.enter("10.0.0.2")
