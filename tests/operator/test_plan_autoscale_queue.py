"""The autoscaler behind gateways that hold back what engines have no place for: a whole fleet in simulated time."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from operatorlab.scaled_fleet import LOOK_S, ScaledFleet

START_S, TARGET = 60.0, 0.65
JUMP = 40.0  # when the load becomes ten times what it was


def needed(load: float) -> int:
    """Replicas at the target utilisation."""
    return math.ceil(load / TARGET)


def first_seen(fleet: ScaledFleet) -> int:
    """The look at which somebody waited for the first time after the jump."""
    return next(number for number, look in enumerate(fleet.looks) if look[0] > JUMP and look[1])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("rate", "replicas", "places", "retries"),
    [(1.3, 1, 8, 0), (1.3, 1, 32, 2), (5.2, 4, 32, 0), (5.2, 4, 16, 2)],
)
def test_ten_times_the_load_is_wanted_at_once_and_there_after_one_start(
    seed: int, rate: float, replicas: int, places: int, retries: int
) -> None:
    """Half a replica's second a request; clients who ask again are no further load."""
    fleet = ScaledFleet(seed=seed, replicas=replicas, places=places, start_s=START_S, retries=retries)
    load = 10 * rate * 0.5
    fleet.run(JUMP, rate)
    fleet.run(JUMP + 1.5 * START_S, 10 * rate)
    seen = first_seen(fleet)
    assert fleet.looks[seen + 2][2] >= load, "enough is wanted two decisions after the first"
    there = next(at for at, _, _ in fleet.looks[seen:] if at >= fleet.looks[seen + 2][0] + START_S)
    assert there - fleet.looks[seen][0] <= START_S + 3 * LOOK_S
    assert len(fleet.ready) >= load
    fleet.run(JUMP + 5 * START_S)
    assert fleet.waiting == 0
    assert fleet.desired <= 1.3 * needed(load)
    assert [change.desired for change in fleet.changes] == sorted(change.desired for change in fleet.changes)


def test_by_what_engines_were_given_alone_the_same_load_would_take_four_starts() -> None:
    fleet = ScaledFleet(start_s=START_S, asked=False)
    fleet.run(JUMP, 1.3)
    fleet.run(JUMP + 3 * START_S, 13.0)
    assert len(fleet.ready) < 13.0 * 0.5 + 1


def test_a_queue_that_is_full_between_two_looks_hides_nothing() -> None:
    fleet = ScaledFleet(replicas=3, prompt=30, answer=10)
    fleet.run(JUMP, 30.0)
    fleet.run(JUMP + 12.0, 600.0)
    assert fleet.looks[first_seen(fleet) + 2][2] >= 600.0 * 0.05
    assert fleet.desired <= 1.3 * needed(600.0 * 0.05)


@pytest.mark.parametrize("count", [60, 300])
def test_a_single_burst_brings_what_works_it_off_in_a_minute_and_no_more(count: int) -> None:
    fleet = ScaledFleet(seed=3, replicas=2)
    fleet.run(JUMP, 1.3)
    before = fleet.desired
    fleet.send(count)
    fleet.run(JUMP + 120.0)
    assert fleet.desired - before <= math.ceil(count * 0.5 / 60) + 1
    assert fleet.waiting == 0


def test_the_end_of_a_rush_takes_replicas_away_one_by_one_and_brings_none_back() -> None:
    hold_s = 40
    fleet = ScaledFleet(seed=1, replicas=2, hold_s=hold_s)
    fleet.run(JUMP, 1.3)
    fleet.run(JUMP + 150.0, 13.0)
    most, over = fleet.desired, fleet.now
    fleet.run(over + 14 * hold_s, 1.3)
    after = [change for change in fleet.changes if change.at > over]
    assert [change.desired for change in after] == list(range(most - 1, fleet.desired - 1, -1)) and len(after) >= 5
    assert all(later.at - earlier.at >= hold_s for earlier, later in pairwise(after))


def test_while_a_queue_is_worked_off_replicas_neither_come_nor_go() -> None:
    """Engines that work off a queue are full, which asks for no more; what arrives alone needs fewer, but not yet."""
    fleet = ScaledFleet(seed=2, replicas=8, places=8, hold_s=5)
    fleet.run(JUMP, 10.0)
    before = fleet.desired
    fleet.send(400)
    begun = fleet.now
    while fleet.waiting or fleet.now < begun + 2 * LOOK_S:
        fleet.run(fleet.now + LOOK_S)
        assert before <= fleet.desired <= before + math.ceil(400 * 0.5 / 60)
    assert fleet.now - begun > 3 * LOOK_S
