"""Who is put out, for how long, and how they come back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.routing.model_table import Pod
from topmast_gateway.routing.outlier_detection import FIRST_EJECTION_S, LONGEST_EJECTION_S, OutlierDetector

PODS = [Pod(str(number), "ns", f"pod-{number}", "ns/m", "", ready_since="then") for number in range(4)]
BAD, *GOOD = PODS


class Watched(OutlierDetector):
    """With a clock of its own."""

    def __init__(self, pods: list[Pod] = PODS) -> None:
        self.now = 1000.0
        super().__init__(lambda: self.now)
        self.pods = pods
        self.set_pods(pods)

    def fail(self, pod: Pod, times: int = 3) -> None:
        for _ in range(times):
            self.failed(pod)

    def names(self) -> list[Pod]:
        return self.usable(self.pods)


def test_three_failures_in_a_row_put_a_pod_out_and_two_do_not() -> None:
    outliers = Watched()
    outliers.fail(BAD, 2)
    outliers.succeeded(BAD)
    outliers.fail(BAD, 2)
    assert outliers.names() == PODS
    outliers.failed(BAD)
    assert outliers.names() == GOOD and outliers.ejected() == [BAD]


def test_one_probe_decides() -> None:
    outliers = Watched()
    outliers.fail(BAD)
    outliers.now += FIRST_EJECTION_S - 0.1
    assert outliers.names() == GOOD
    outliers.now += 0.2
    assert outliers.names() == PODS
    outliers.sent(BAD)
    assert outliers.names() == GOOD  # one is enough
    outliers.failed(BAD)
    assert outliers.names() == GOOD
    outliers.now += 2 * FIRST_EJECTION_S + 0.1
    outliers.sent(BAD)
    outliers.succeeded(BAD)
    assert outliers.names() == PODS and outliers.ejected() == []


def test_the_time_out_doubles_to_a_minute_and_is_forgiven_after_a_good_one() -> None:
    outliers, lasted = Watched(), []

    def out_s() -> float:
        start = outliers.now
        while BAD not in outliers.names():
            outliers.now += 0.5
        return outliers.now - start

    outliers.fail(BAD)
    for _ in range(6):
        lasted.append(out_s())
        outliers.sent(BAD)
        outliers.failed(BAD)
    assert lasted == [5, 10, 20, 40, 60, 60]
    out_s()
    outliers.sent(BAD)
    outliers.succeeded(BAD)
    outliers.fail(BAD)
    assert out_s() == LONGEST_EJECTION_S  # it had just come back
    outliers.sent(BAD)
    outliers.succeeded(BAD)
    outliers.now += LONGEST_EJECTION_S + 1
    outliers.fail(BAD)
    assert out_s() == FIRST_EJECTION_S


def test_a_pod_that_fails_for_days_is_still_only_ejected() -> None:
    outliers = Watched()
    outliers.fail(BAD)
    for _ in range(2000):  # a probe a minute: the doubled time has long been too large for a float
        outliers.now += LONGEST_EJECTION_S
        assert BAD in outliers.names()
        outliers.sent(BAD)
        outliers.failed(BAD)
    assert outliers.names() == GOOD


def test_a_probe_whose_client_left_makes_room_for_another() -> None:
    outliers = Watched()
    outliers.fail(BAD)
    outliers.now += FIRST_EJECTION_S
    outliers.sent(BAD)
    outliers.now += 29
    assert BAD not in outliers.names()
    outliers.now += 2
    assert BAD in outliers.names()


def test_answers_from_before_do_not_bring_a_pod_back() -> None:
    outliers = Watched()
    outliers.fail(BAD)
    outliers.succeeded(BAD)
    assert outliers.names() == GOOD


def test_the_only_pod_and_the_second_half_stay() -> None:
    alone = Watched([BAD])
    alone.fail(BAD, 100)
    assert alone.names() == [BAD]
    outliers = Watched()
    for pod in PODS:
        outliers.fail(pod)
    assert outliers.ejected() == PODS[:2]


def test_a_pod_that_became_ready_again_has_a_clean_record() -> None:
    outliers = Watched()
    outliers.fail(BAD)
    again = replace(BAD, ready_since="now")
    outliers.set_pods([again, *GOOD])
    assert outliers.usable([again, *GOOD]) == [again, *GOOD] and outliers.ejected() == []


def test_when_healthy_pods_leave_failing_ones_come_back_so_that_half_remain() -> None:
    outliers = Watched()
    outliers.fail(PODS[0])
    outliers.now += 1
    outliers.fail(PODS[1])
    outliers.set_pods(PODS[:2])
    assert outliers.ejected() == [PODS[1]]


def times(outliers: Watched, pod: Pod, first_s: float, count: int = 12) -> None:
    for _ in range(count):
        outliers.now += 0.5
        outliers.succeeded(pod, first_s)


def test_a_pod_that_is_far_slower_than_its_siblings_is_put_out() -> None:
    outliers = Watched()
    for pod in GOOD:
        times(outliers, pod, 0.3)
    times(outliers, BAD, 5.0)
    assert outliers.ejected() == [BAD]


def test_all_slow_a_little_slow_fast_anyway_and_too_few_samples_are_no_outliers() -> None:
    for own, usual, count in ((5.0, 5.0, 12), (0.9, 0.3, 12), (0.4, 0.01, 12), (5.0, 0.3, 9)):
        outliers = Watched()
        for pod in GOOD:
            times(outliers, pod, usual)
        times(outliers, BAD, own, count)
        assert outliers.ejected() == [], (own, usual, count)


STEPS = st.tuples(st.sampled_from(["failed", "worked", "slow", "sent", "wait", "leave", "return"]), st.integers(0, 5))


@given(st.integers(1, 6), st.lists(STEPS, max_size=120))
def test_never_more_than_half_are_out_and_somebody_always_may_go(count: int, steps: list[tuple[str, int]]) -> None:
    everybody = [Pod(str(number), "ns", f"pod-{number}", "ns/m", "") for number in range(count)]
    outliers = Watched(list(everybody))
    for step, number in steps:
        pod = everybody[number % count]
        match step:
            case "failed" | "sent" if pod in outliers.pods:
                getattr(outliers, step)(pod)
            case "worked" if pod in outliers.pods:
                outliers.succeeded(pod, 0.1)
            case "slow" if pod in outliers.pods:
                times(outliers, pod, 9.0)
            case "wait":
                outliers.now += 10 * number
            case "leave" if len(outliers.pods) > 1 and pod in outliers.pods:
                outliers.pods.remove(pod)
            case "return" if pod not in outliers.pods:
                outliers.pods.append(pod)
        outliers.set_pods(outliers.pods)
        out = outliers.ejected()
        assert 2 * len(out) <= len(outliers.pods)
        assert len(outliers.names()) >= len(outliers.pods) - len(out) >= 1
