"""Step times are learned, and chunks of prompts are sized by them."""

from __future__ import annotations

import pytest

from topmast_server.engine.step_time import StepTime

GOAL_S = 0.1


def new_step_time() -> StepTime:
    return StepTime(GOAL_S, most=1024, full_batch=16)


class Machine:
    """Step times as a machine might have them: a decode step, and prompt tokens that get dearer with their position."""

    def __init__(self, token_s: float = 0.001, far_s: float = 0.0) -> None:
        self.step_time = new_step_time()
        self.token_s, self.far_s = token_s, far_s

    def seconds(self, decode_rows: int, start: int, count: int) -> float:
        decode_s = 0.008 + 0.001 * decode_rows if decode_rows else 0.0
        return decode_s + count * (self.token_s + self.far_s * (start + count / 2))

    def decode(self, rows: int, steps: int = 20) -> None:
        for _ in range(steps):
            self.step_time.learn(decode_rows=rows, prefill_rows=0, position=0, seconds=self.seconds(rows, 0, 0))

    def prefill(self, prompt: int, decode_rows: int) -> list[float]:
        """The durations of the steps that a prompt takes beside so many decodes."""
        durations, start = [], 0
        while start < prompt:
            count = self.step_time.budget(decode_rows).chunk(start, prompt - start)
            durations.append(self.seconds(decode_rows, start, count))
            position = start + count // 2
            self.step_time.learn(decode_rows=decode_rows, prefill_rows=count, position=position, seconds=durations[-1])
            start += count
        return durations


def test_a_long_prompt_beside_decodes_keeps_steps_within_the_goal() -> None:
    machine = Machine()
    machine.decode(8)
    machine.prefill(1000, 0)
    durations = machine.prefill(4000, 8)
    assert max(durations) <= GOAL_S
    assert min(durations[:-1]) >= 0.8 * GOAL_S  # and uses what it may


def test_tokens_far_behind_are_dearer_and_come_in_smaller_chunks() -> None:
    machine = Machine(far_s=1e-6)
    machine.decode(8)
    machine.prefill(4000, 8)
    durations = machine.prefill(4000, 8)
    assert max(durations) <= 1.5 * GOAL_S
    assert sum(duration > 1.1 * GOAL_S for duration in durations) <= len(durations) // 5


def test_a_slower_machine_gets_smaller_chunks() -> None:
    for token_s in (0.0002, 0.001, 0.004):
        machine = Machine(token_s)
        machine.decode(4)
        machine.prefill(2000, 4)
        assert max(machine.prefill(2000, 4)) <= GOAL_S + 16 * token_s


def test_with_nobody_waiting_for_a_token_chunks_are_larger() -> None:
    machine = Machine()
    machine.decode(8)
    machine.prefill(2000, 0)
    assert machine.step_time.budget(0).chunk(0, 2000) > 1.5 * machine.step_time.budget(8).chunk(0, 2000)


def test_a_prompt_gets_on_even_where_decodes_alone_take_longer_than_the_goal() -> None:
    machine = Machine()
    machine.decode(200)
    machine.prefill(200, 0)
    assert machine.step_time.budget(200).chunk(0, 2000) == 16


def test_one_stall_changes_the_chunks_little_and_a_lasting_change_soon_counts() -> None:
    machine = Machine()
    machine.decode(8)
    machine.prefill(2000, 8)
    usual = machine.step_time.budget(8).chunk(0, 2000)
    machine.step_time.learn(decode_rows=8, prefill_rows=usual, position=usual // 2, seconds=3.0)
    assert machine.step_time.budget(8).chunk(0, 2000) >= 0.7 * usual
    machine.token_s *= 4
    machine.prefill(2000, 8)
    assert machine.step_time.budget(8).chunk(0, 2000) <= usual / 2


def test_decodes_that_were_slow_once_do_not_keep_a_prompt_back_for_long() -> None:
    machine = Machine()
    for _ in range(20):
        machine.step_time.learn(decode_rows=8, prefill_rows=0, position=0, seconds=GOAL_S)  # neighbours, gone by now
    machine.prefill(1000, 8)
    assert machine.step_time.budget(8).chunk(0, 2000) >= 48


def test_rows_have_a_limit_however_fast_the_machine_is() -> None:
    machine = Machine(1e-6)
    machine.prefill(100_000, 0)
    assert machine.step_time.budget(24).chunk(0, 100_000) == 1000


def test_one_stream_alone_does_not_set_the_rate_that_the_replica_is_scaled_by() -> None:
    step_time = new_step_time()
    step_time.learn(decode_rows=16, prefill_rows=0, position=0, seconds=0.04)
    for _ in range(100):
        step_time.learn(decode_rows=1, prefill_rows=0, position=0, seconds=0.0125)
    assert step_time.decode_tokens_per_s == 400
    for _ in range(100):
        step_time.learn(decode_rows=8, prefill_rows=0, position=0, seconds=0.04)
    assert step_time.decode_tokens_per_s == pytest.approx(200, rel=0.01)
