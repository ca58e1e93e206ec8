"""The order of slots: fair by weight, never idle with work waiting, nobody starved, and deaf to a noisy key."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.lab.queue_model import Engine, Job, p99, poisson
from topmast_gateway.fairness.fair_queue import PASSES, STARVED_AFTER_S, FairQueue, QueueFull, reserved_places
from topmast_gateway.fairness.virtual_token_counter import W_OUT, QueueEntry, VirtualTokenCounter
from topmast_gateway.identity.caller import Caller, Priority
from topmast_gateway.messages.token_usage import TokenUsage

ALICE, BOB = Caller("alice"), Caller("bob")
SIZES = st.tuples(st.integers(1, 500), st.integers(0, 100))


def ticket(caller: Caller, prompt: int = 100, priority: Priority = Priority.NORMAL, at_s: float = 0.0) -> QueueEntry:
    return QueueEntry(caller, priority, prompt, TokenUsage(), at_s)


@given(
    st.lists(SIZES, min_size=20, max_size=80),
    st.lists(SIZES, min_size=20, max_size=80),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.integers(1, 8),
)
def test_the_gap_of_weighted_service_between_two_who_wait_is_bounded(
    first: list[tuple[int, int]], second: list[tuple[int, int]], weight: float, slots: int
) -> None:
    light, heavy = Caller("light"), Caller("heavy", weight=weight)
    line, sizes = VirtualTokenCounter(), dict[QueueEntry, tuple[int, int]]()
    for caller, wanted in ((light, first), (heavy, second)):
        for prompt, output in wanted:
            sizes[one := ticket(caller, prompt)] = (prompt, output)
            line.arrive(one)
    largest = max(prompt + W_OUT * output for prompt, output in (*first, *second))
    running, service = list[QueueEntry](), {"light": 0.0, "heavy": 0.0}
    while len(set(dict(line.queued()))) == 2:
        one = line.pop(("light", "heavy"))
        running.append(one)
        service[one.caller.name] += (sizes[one][0] + W_OUT * sizes[one][1]) / one.caller.weight
        if len(running) == slots:
            done = running.pop(0)
            done.usage.prompt, done.usage.output = sizes[done]
            line.finish(done)
        # What a running request will still be charged is all that the counters cannot know: slots times the largest.
        assert abs(service["light"] - service["heavy"]) <= (slots + 1) * largest / min(1.0, weight)


def test_who_was_away_gets_no_credit_for_it() -> None:
    line = VirtualTokenCounter()
    for _ in range(100):
        line.arrive(one := ticket(ALICE, 1000))
        line.pop(("alice",))
        line.finish(one)
        line.arrive(ticket(ALICE, 1000))
        line.pop(("alice",))  # the next one runs
    for _ in range(4):
        line.arrive(ticket(ALICE, 10))
        line.arrive(ticket(BOB, 10))
    order = [line.pop(("alice", "bob")).caller.name for _ in range(8)]
    assert order.count("bob") == 4 and "bob" in order[:3] and "alice" in order[:5]


@settings(max_examples=50)
@given(st.integers(1, 40), st.lists(st.sampled_from("abc"), min_size=1, max_size=120), st.booleans())
def test_no_place_is_idle_while_one_who_may_have_it_waits(slots: int, names: list[str], several: bool) -> None:
    queue, running = FairQueue(1000), list[QueueEntry]()
    for name in names if several else ["a"] * len(names):
        queue.arrive(ticket(Caller(name)))
    while queue.waiting:
        while one := queue.next(0.0, slots - queue.running):
            running.append(one)
            one.usage.output = 1  # its prompt is computed
        idle = slots - queue.running
        if queue.waiting:
            callers = {one.caller.name for one in running}
            # Kept back for those below their share; a caller who is alone gets all.
            assert idle <= (reserved_places(slots) if several and len(set(names)) > 1 else 0), callers
        queue.finish(running.pop(0))


def test_batch_priority_has_its_slots_under_a_flood_of_better_ones_and_not_more() -> None:
    queue = FairQueue(10_000)
    for priority in Priority:
        for _ in range(200):
            queue.arrive(ticket(Caller(priority.name), priority=priority))
    order = []
    for number in range(160):
        one = queue.next(number * 0.5, 1)
        assert one is not None
        order.append(one.priority)
        queue.finish(one)
    early, late = order[: int(STARVED_AFTER_S / 0.5)], order[int(STARVED_AFTER_S / 0.5) :]
    assert set(early) == {Priority.INTERACTIVE}
    for priority in (Priority.NORMAL, Priority.BATCH):
        assert len(late) / (PASSES + 2) - 1 <= late.count(priority) <= len(late) / PASSES
    assert late.count(Priority.INTERACTIVE) >= len(late) * (PASSES - 1) / (PASSES + 1) - 1


def test_a_full_queue_takes_the_quiet_and_the_noisy_has_to_go() -> None:
    queue = FairQueue(10)
    waiting = [ticket(ALICE, at_s=number) for number in range(10)]
    assert [queue.arrive(one) for one in waiting] == [None] * 10
    assert queue.arrive(ticket(ALICE)) == QueueFull(own=False)  # it is alone: this is the model's fault
    assert [queue.arrive(ticket(BOB)) for _ in range(5)] == waiting[:4:-1]
    assert queue.arrive(ticket(BOB)) == queue.arrive(ticket(ALICE)) == QueueFull(own=True)
    assert queue.waiting == 10


def test_of_one_callers_requests_the_newest_batch_goes_first() -> None:
    queue = FairQueue(2)
    queue.arrive(batch := ticket(ALICE, priority=Priority.BATCH))
    queue.arrive(ticket(ALICE, at_s=1.0))
    assert queue.arrive(ticket(BOB)) is batch


def test_the_wait_is_estimated_from_how_the_queue_drains() -> None:
    queue = FairQueue(1000)
    for _ in range(100):
        queue.arrive(ticket(ALICE))
    assert queue.wait_s(ALICE, 0.0) is None
    for number in range(20):
        queue.next(number * 0.1, 1)
    assert queue.wait_s(ALICE, 2.0) == pytest.approx(8.1, rel=0.05)
    assert queue.wait_s(BOB, 2.0) == pytest.approx(0.2, rel=0.1)  # half of the slots, and nobody before it


QUIET, NOISY = Caller("quiet"), Caller("noisy")
PLACES = 32
ALIKE = (range(64, 65), range(48, 49))  # prompts and answers of one length: whole groups of them end together
MIXED = (range(16, 257), range(16, 97))


def per_s(sizes: tuple[range, range]) -> float:
    """What the engine can do of such requests."""
    jobs = list(poisson(NOISY, 100, 10, 1, sizes))
    return len(jobs) / Engine(PLACES, 10_000).run(jobs).seconds


# Beside a noisy key the engine is full: a burst of long prompts takes longer, and a key near its share meets limits.
@pytest.mark.parametrize(("sizes", "load", "bar"), [(ALIKE, 0.5, 1.2), (MIXED, 0.5, 1.3), (ALIKE, 0.8, 1.6)])
def test_a_noisy_key_at_ten_times_its_share_hardly_moves_anothers_p99_ttft(
    sizes: tuple[range, range], load: float, bar: float
) -> None:
    share_per_s, times = per_s(sizes) / 2, dict[int, list[float]]()
    for factor in (1, 10):
        refused = 0
        for seed in range(10):
            quiet = poisson(QUIET, share_per_s * load, 100, seed, sizes)
            noisy = poisson(NOISY, share_per_s * factor, 100, seed + 500, sizes)
            outcome = Engine(PLACES, 512).run([*quiet, *noisy])
            times.setdefault(factor, []).extend(ttft_s for at_s, ttft_s in outcome.ttft_s["quiet"] if at_s > 8)
            refused += outcome.refused["noisy"]
            assert "quiet" not in outcome.refused
        assert (refused > 1000) == (factor == 10)
    assert p99(times[10]) <= bar * p99(times[1])


def test_weights_divide_what_backlogged_keys_get() -> None:
    one, three = Caller("one"), Caller("three", weight=3.0)
    jobs = [Job(0.0, caller, 200, 50) for caller in (one, three) for _ in range(400)]
    order = Engine(PLACES, 1000).run(jobs).order[PLACES:400]
    assert order.count("three") / order.count("one") == pytest.approx(3.0, rel=0.1)
