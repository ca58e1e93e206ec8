"""The time to the first token is foreseen well enough to refuse in time, whatever the machine really does."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import pytest

from topmast_server.api.admission import Admission, Limits, Ticket, Wanted
from topmast_server.api.errors import ApiError
from topmast_server.api.ttft_estimate import TtftEstimate

STEP_S = 0.02


FRESH = [(0, 50)] * 42  # answers that begin, of at most 50 tokens


def test_nobody_waits_at_an_empty_server() -> None:
    assert TtftEstimate(32, 1000, 300).first_token_s(1, 0, []) == 0
    assert TtftEstimate(32, 1000, 300).first_token_s(32, 0, FRESH[:31]) == 0


def test_until_a_loaded_server_was_seen_half_of_the_idle_rate_counts() -> None:
    estimate = TtftEstimate(32, 1000, 300)
    assert estimate.first_token_s(2, 1000, FRESH[:2]) == pytest.approx(1.0)
    assert estimate.first_token_s(20, 1000, FRESH[:20]) == pytest.approx(2.0)
    assert estimate.first_token_s(42, 0, FRESH) == pytest.approx(50 * 32 / (0.5 * 300))


def test_a_guess_from_a_slow_warm_up_is_corrected_by_what_the_engine_measures_later() -> None:
    estimate = TtftEstimate(32, 10, 10)
    estimate.believe(1000, 0)
    assert estimate.first_token_s(2, 1000, FRESH[:2]) == pytest.approx(1.0)
    estimate.believe(0, 300)
    assert estimate.first_token_s(42, 0, FRESH) == pytest.approx(50 * 32 / (0.5 * 300))
    assert estimate.first_token_s(2, 1000, FRESH[:2]) == pytest.approx(1.0)


def test_whoever_finds_no_place_waits_for_the_shortest_rest_of_an_answer() -> None:
    estimate = TtftEstimate(4, 1000, 300)
    for _ in range(1000):
        estimate.went_on(4, 2, 0.2)
    answers: list[tuple[float, int | None]] = [(60, 64), (10, 64), (63, None), (90, 64)]
    estimate.answered(100)
    for number, tokens in enumerate((1, 4, 37, 54, 1 + 54, 4 + 54)):
        answers += [(0, 54)] if number else []  # who came before and waits, too
        assert estimate.first_token_s(5 + number, 0, answers) == pytest.approx(tokens * 0.1, rel=0.01), number


def test_a_queue_that_drains_slower_than_hoped_is_believed() -> None:
    estimate = TtftEstimate(32, 1000, 300)
    for second in range(20):
        estimate.observe(5000, float(second + 1))
        estimate.prefilled(32, 200, float(second + 2))
    assert estimate.first_token_s(32, 2000, []) == pytest.approx(10, rel=0.15)
    assert estimate.first_token_s(2, 2000, []) == pytest.approx(2, rel=0.15)  # few sequences: not seen yet


def test_a_long_prompt_under_way_is_no_stall() -> None:
    estimate = TtftEstimate(32, 1000, 300)
    estimate.observe(8000, 1.0)
    before_s = estimate.first_token_s(2, 8000, [])
    estimate.observe(8010, 6.0)
    assert estimate.first_token_s(2, 8000, []) == before_s


def test_time_without_a_queue_does_not_count() -> None:
    estimate = TtftEstimate(32, 1000, 300)
    for hour in range(1, 10):
        estimate.observe(100, 3600.0 * hour)
        estimate.prefilled(1, 100, 3600.0 * hour + 0.1)
        estimate.observe(0, 3600.0 * hour + 0.1)
    assert estimate.first_token_s(2, 1000, []) == pytest.approx(1.0, rel=0.05)


@dataclass
class Machine:
    """A server as it really is: so fast, and so slow beside `slots` decoding sequences."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    slots: int = 32

    def first_token_times(
        self, door: Admission, clock: list[float], *, rate: float, seconds: float, prompt: int
    ) -> list[float]:
        """Open loop: `rate` requests a second, answers of 64 tokens; seconds to the first token of the accepted."""
        dice = random.Random(1)
        waiting: deque[tuple[float, Ticket, list[float]]] = deque()
        running: list[tuple[Ticket, list[float]]] = []
        took, arrives_s = [], 0.0
        while clock[0] < 1 + seconds or waiting or running:
            clock[0] += STEP_S
            while arrives_s <= clock[0] - 1 < seconds:
                arrives_s += dice.expovariate(rate)
                try:
                    ticket = door.enter(Wanted(1, 4 * prompt, max_tokens=64))
                except ApiError as error:
                    assert error.code == "server_full" and error.retry_after_s is not None
                    continue
                waiting.append((clock[0], ticket, [float(prompt)]))
            work = self.prefill_tokens_per_s * STEP_S
            while waiting and work > 0 and len(running) < self.slots:
                came_s, ticket, left = waiting[0]
                done = min(work, left[0])
                left[0] -= done
                work -= done
                if left[0] <= 0:
                    waiting.popleft()
                    ticket.prefilled()
                    took.append(clock[0] - came_s)
                    running.append((ticket, [64.0]))
            each = self.decode_tokens_per_s * STEP_S / max(1, len(running))
            for sequence in list(running):
                sequence[1][0] -= each
                sequence[0].made(int(65 - sequence[1][0]))
                if sequence[1][0] <= 0:
                    door.ttft_estimate.answered(64)
                    sequence[0].leave()
                    running.remove(sequence)
        return took


@pytest.mark.parametrize(
    ("machine", "prompt"),
    [
        pytest.param(Machine(700, 350), 128, id="as measured"),
        pytest.param(Machine(200, 350), 128, id="prefill a fifth of what it was alone"),
        pytest.param(Machine(900, 200), 128, id="decodes hold the places for long"),
        pytest.param(Machine(700, 350), 1500, id="long prompts"),
        pytest.param(Machine(900, 350), 8, id="short prompts"),
    ],
)
def test_ten_times_too_many_requests_leave_the_accepted_ones_their_first_token(machine: Machine, prompt: int) -> None:
    target_s, clock = 5.0, [1.0]
    limits = Limits(
        max_sequences=machine.slots + 256,
        max_num_seqs=machine.slots,
        max_waiting_tokens=10**6,
        max_context_tokens=8192,
        prefill_tokens_per_s=1000,  # what the machine showed at its start, alone
        decode_tokens_per_s=350,
        ttft_target_s=target_s,
    )
    door = Admission(limits, clock=lambda: clock[0])
    sustainable = 1 / max(prompt / machine.prefill_tokens_per_s, 64 / machine.decode_tokens_per_s)
    took = sorted(machine.first_token_times(door, clock, rate=10 * sustainable, seconds=60, prompt=prompt))
    p99_s = took[int(0.99 * (len(took) - 1))]
    told = f"{len(took)} accepted of {600 * sustainable:.0f}, p50 {took[len(took) // 2]:.1f} s, p99 {p99_s:.1f} s"
    print(f"\nfirst tokens: {told}")
    assert p99_s <= 2 * target_s
    assert len(took) >= 0.7 * 60 * sustainable, "the server idled while it refused"
    assert (door.sequences, door.waiting_tokens) == (0, 0)
    assert door.wait_s(Wanted(1)) == 0
