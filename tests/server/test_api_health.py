"""Hang or not: judged from readings alone, never from wall-clock jumps."""

import pytest

from topmast_server.progress import Snapshot
from topmast_server.supervisor.health import WATCH_INTERVAL_S, HangJudge, Verdict


class Engine:
    """A progress page that a story moves on."""

    def __init__(self, hang_timeout_s: float = 10.0) -> None:
        self.judge = HangJudge(hang_timeout_s)
        self.now_s = 1000.0
        self.page = Snapshot(steps=5, last_tick_s=1000.0, has_work=False, slowest_recent_step_s=0.05)

    def wait(self, seconds: float, *, in_flight: int = 0, steps: bool = False, ticks: bool = False) -> Verdict:
        for _ in range(round(seconds / WATCH_INTERVAL_S)):
            self.now_s += WATCH_INTERVAL_S
            page = self.page
            tick_s = self.now_s if steps or ticks else page.last_tick_s
            self.page = Snapshot(page.steps + steps, tick_s, page.has_work, page.slowest_recent_step_s)
            self.judge.observe(self.now_s, self.page, in_flight)
        return self.judge.verdict

    def set(self, *, has_work: bool, slowest_s: float = 0.05) -> None:
        self.page = Snapshot(self.page.steps, self.page.last_tick_s, has_work, slowest_s)


def test_an_idle_engine_that_ticks_is_fine_for_ever() -> None:
    assert not Engine().wait(600, ticks=True).hung


def test_an_idle_engine_that_stops_ticking_is_found_within_15_s() -> None:
    engine = Engine()
    engine.wait(60, ticks=True)
    assert engine.wait(11).hung


def test_a_working_engine_that_stops_is_found_within_15_s() -> None:
    engine = Engine()
    engine.set(has_work=True)
    assert not engine.wait(60, steps=True, in_flight=1).hung
    assert not engine.wait(9, in_flight=1).hung
    assert engine.wait(2, in_flight=1).hung


def test_an_engine_that_forgot_a_request_is_found_although_it_ticks() -> None:
    engine = Engine()
    assert not engine.wait(9, ticks=True, in_flight=1).hung
    assert engine.wait(3, ticks=True, in_flight=1).hung


def test_work_that_has_just_begun_is_not_blamed_for_the_idle_time_before() -> None:
    engine = Engine()
    engine.wait(300, ticks=True)
    assert engine.wait(2, ticks=True, in_flight=1).stalled_s == pytest.approx(2.0)


def test_a_long_step_after_slow_ones_is_not_a_hang() -> None:
    engine = Engine()
    engine.set(has_work=True, slowest_s=2.0)
    assert not engine.wait(35, in_flight=1).hung
    assert engine.wait(10, in_flight=1).hung


def test_a_paused_machine_is_nobodys_fault() -> None:
    engine = Engine()
    engine.set(has_work=True)
    engine.wait(5, steps=True, in_flight=1)
    engine.now_s += 3600
    assert not engine.wait(WATCH_INTERVAL_S, in_flight=1).hung


def test_clients_that_come_and_go_do_not_hide_a_frozen_engine() -> None:
    engine = Engine()
    for turn in range(24):
        engine.wait(WATCH_INTERVAL_S, in_flight=turn % 2)
    assert engine.judge.verdict.hung
