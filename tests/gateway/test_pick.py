"""The choice of a pod, and the count behind it."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.pick import Loads
from topmast_gateway.routes import Pod

PODS = [Pod(str(number), "ns", f"pod-{number}", "ns/m", "127.0.0.1:8000") for number in range(4)]
COSTS = st.lists(st.integers(1, 10_000), min_size=1, max_size=60)


def tokens(loads: Loads) -> dict[str, int]:
    return {load.pod.uid: load.tokens for load in loads}


@given(COSTS)
def test_no_pod_has_more_than_one_request_above_the_least_loaded(costs: list[int]) -> None:
    loads = Loads()
    with ExitStack() as open_requests:
        for cost in costs:
            open_requests.enter_context(loads.sending(loads.least(PODS), cost))
        counted = tokens(loads)
        assert sum(counted.values()) == sum(costs)
        assert max(counted.values()) - min(counted.get(pod.uid, 0) for pod in PODS) <= max(costs)


@given(st.lists(st.tuples(st.sampled_from(PODS), st.integers(1, 1000), st.booleans()), max_size=50))
def test_whatever_ends_and_however_everything_is_given_back_once(steps: list[tuple[Pod, int, bool]]) -> None:
    loads = Loads()
    for pod, cost, fails in steps:
        if fails:
            with pytest.raises(RuntimeError), loads.sending(pod, cost):
                raise RuntimeError
        else:
            with loads.sending(pod, cost):
                assert tokens(loads)[pod.uid] == cost
    assert all(load.tokens == 0 and load.requests == 0 for load in loads)
    loads.forget(present=set())
    assert list(loads) == []


def test_idle_pods_take_turns() -> None:
    loads, order = Loads(), []
    for _ in range(8):
        pod = loads.least(PODS)
        with loads.sending(pod, 10):
            order.append(pod.name)
    assert order == [pod.name for pod in PODS] * 2


def test_equal_tokens_go_to_the_pod_with_fewer_requests() -> None:
    loads = Loads()
    with loads.sending(PODS[0], 50), loads.sending(PODS[0], 50), loads.sending(PODS[1], 100):
        assert loads.least(PODS[:2]) == PODS[1]


def test_a_busy_pod_is_not_forgotten_when_it_leaves_the_routes() -> None:
    loads = Loads()
    with loads.sending(PODS[0], 7):
        loads.forget(present=set())
        assert tokens(loads) == {PODS[0].uid: 7}
