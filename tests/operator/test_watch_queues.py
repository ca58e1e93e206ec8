"""What the queues of several gateways amount to, and when they grow: sums over answers, at times of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topmast_operator.api.facts import Queue
from topmast_operator.watch.queues import Answer, Queues, Told, Work, parse_answer

KEY = "ns/m"


class Gateways:
    """Two gateways that are looked at every two seconds."""

    def __init__(self) -> None:
        self.queues = Queues()
        self.now = 1000.0
        self.queues.watch(KEY, self.now)

    def look(self, *told: Told | tuple[int, int], replica: str = "r") -> Queue:
        """What they say now, as requests that wait and that went away, of 100 and 10 tokens each."""
        for number, item in enumerate(told):
            said = item if isinstance(item, Told) else Told(work(item[0]), work(item[1]), float(item[0]))
            self.queues.hear(f"gateway-{number}", Answer(f"{replica}{number}", {KEY: said}))
        self.now += 2.0
        self.queues.look(self.now)
        return self.queues.queue(KEY)


def work(requests: int) -> Work:
    return Work(requests, 100 * requests, 10 * requests)


def growth(queue: Queue) -> float:
    """In requests a second."""
    assert queue.prompt_growth_per_s == pytest.approx(10 * queue.output_growth_per_s)
    return queue.prompt_growth_per_s / 100


def drained(queue: Queue) -> int:
    assert queue.prompt_drained == 10 * queue.output_drained
    return queue.prompt_drained // 100


def test_gateways_are_added_up_and_the_oldest_request_is_the_oldest_of_all() -> None:
    found = Gateways().look((3, 0), (5, 0))
    assert (found.requests, found.prompt_tokens, found.output_tokens, found.oldest_s) == (8, 800, 80, 5.0)


def test_a_queue_grows_from_its_second_look_on() -> None:
    gateways = Gateways()
    gateways.look((0, 0))
    assert growth(gateways.look((10, 0))) == 0
    assert growth(gateways.look((30, 0))) == 5  # 10 in the first two seconds, 20 in the next
    assert growth(gateways.look((50, 0))) == 7.5  # 30 in four seconds, then 20 in two
    assert growth(gateways.look((70, 0))) == 7.5  # 30 in four, 40 in four
    assert growth(gateways.look((70, 0))) == 5  # 50 in six, then 20 in four


def test_a_burst_is_no_growth() -> None:
    gateways = Gateways()
    gateways.look((0, 0))
    for waiting in (400, 390, 385, 380, 370):
        assert growth(gateways.look((waiting, 0))) == 0


def test_who_is_sent_away_makes_a_full_queue_grow_and_who_comes_back_does_not() -> None:
    gateways = Gateways()
    gateways.look((0, 0))
    for gone in (0, 20, 40):
        found = gateways.look((50, gone))
    assert growth(found) == 10 and found.requests == 50
    for back in (30, 20, 10):
        found = gateways.look((50 + 40 - back, back))
    assert growth(found) == 0 and drained(found) == 0


def test_what_engines_took_counts_as_drained_for_a_minute() -> None:
    gateways = Gateways()
    gateways.look((40, 7), (10, 0))
    assert drained(gateways.look((25, 7), (0, 0))) == 25
    assert drained(gateways.look((0, 7), (0, 0))) == 50
    for _ in range(27):
        assert drained(gateways.look((0, 7), (0, 0))) == 50
    for _ in range(4):
        found = gateways.look((0, 7), (0, 0))
    assert drained(found) == 0


def test_another_process_at_an_address_begins_anew() -> None:
    gateways = Gateways()
    gateways.look((0, 900))
    gateways.look((10, 910))
    found = gateways.look((10, 0), replica="another")
    assert growth(found) == 0 and drained(found) == 0
    found = gateways.look((10, 30), replica="another")
    assert found.requests == 10 and drained(found) == 0


def test_a_gateway_that_is_gone_takes_its_queue_along() -> None:
    gateways = Gateways()
    gateways.look((10, 0), (4, 0))
    gateways.queues.forget("gateway-0")
    gateways.now += 2
    assert gateways.queues.look(gateways.now) == [KEY]
    assert gateways.queues.queue(KEY).requests == 4


def test_a_model_is_moved_while_somebody_waits_and_once_more_when_nobody_does() -> None:
    queues = Queues()
    queues.watch(KEY, -2.0)
    moved = []
    for number, waiting in enumerate((0, 3, 3, 0, 0)):
        queues.hear("g", Answer("r", {KEY: Told(work(waiting)), "ns/other": Told(work(9))}))
        moved.append(queues.look(2.0 * number))
    assert moved == [[], [KEY], [KEY], [KEY], []]
    queues.unwatch(KEY)
    assert queues.look(20.0) == [] and not queues.watched


def test_a_model_that_is_watched_later_is_known_at_once_and_grows_by_what_comes_from_then_on() -> None:
    queues = Queues()
    queues.watch("ns/other", 0.0)
    queues.hear("g", Answer("r", {KEY: Told(work(9), work(50))}))
    queues.watch(KEY, 1.0)
    assert queues.queue(KEY).requests == 9
    queues.look(1.0)
    queues.look(1.01)
    assert growth(queues.queue(KEY)) == drained(queues.queue(KEY)) == 0
    queues.hear("g", Answer("r", {KEY: Told(work(11), work(50))}))
    queues.look(1.02)
    assert growth(queues.queue(KEY)) <= 2


def test_nothing_is_kept_for_longer_than_a_minute() -> None:
    gateways = Gateways()
    for number in range(1000):
        gateways.look((number, number))
    assert len(gateways.queues._looks[KEY]) <= 31


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=40))
def test_numbers_are_never_negative_and_growth_is_never_more_than_what_came(looks: list[tuple[int, int]]) -> None:
    gateways, gone, fastest, before = Gateways(), 0, 0, None
    for waiting, more in looks:
        gone += more
        level = waiting + gone
        fastest = max(fastest, level - before) if before is not None else 0
        before = level
        found = gateways.look((waiting, gone))
        assert min(found.prompt_growth_per_s, found.output_growth_per_s, found.prompt_drained) >= 0
        assert growth(found) <= fastest / 2 + 1e-6


def test_an_answer_is_read_as_the_contract_has_it_and_anything_else_is_refused() -> None:
    waiting = {"requests": 2, "prompt_tokens": 30, "output_tokens": 4}
    gone = {"requests": 1, "prompt_tokens": 10, "output_tokens": 2}
    told = {"waiting": waiting, "oldest_s": 1.5, "gone": gone}
    answer = parse_answer({"replica": "r", "models": {KEY: told}})
    assert answer == Answer("r", {KEY: Told(Work(2, 30, 4), Work(1, 10, 2), 1.5)})
    for wrong in ([], {}, {"replica": "r", "models": []}, {"replica": "r", "models": {KEY: {**told, "gone": 3}}}):
        with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
            parse_answer(wrong)


def test_equal_answers_give_equal_facts() -> None:
    one, other = Gateways(), Gateways()
    assert one.look((3, 0), (5, 0)) == replace(other.look((5, 0), (3, 0)), oldest_s=5.0)
