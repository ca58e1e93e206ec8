"""How long starts take, by measurement: what counts, what is kept, and the gap that is expected from it."""

from __future__ import annotations

from typing import Any

import pytest
from operatorlab.facts import NOW, engine, model, pod

from topmast_operator.api.facts import PodFacts
from topmast_operator.api.names import DRAIN_NOTICE_S
from topmast_operator.api.times import to_text
from topmast_operator.plan.starts import ANNOUNCE_S, expected_gap_s, finished_rollout, measured_starts

OF = model()


def started(took_s: float, ready_at: float = NOW, **more: Any) -> PodFacts:
    return pod(OF, ready_unix_s=ready_at, scheduled_unix_s=ready_at - took_s, **more)


def test_a_first_start_is_measured_in_whole_seconds_from_its_node_to_ready() -> None:
    shown = measured_starts({}, [started(12.2)])
    assert shown == {"p50Seconds": 13, "p90Seconds": 13, "latestSeconds": [13], "latestAt": to_text(NOW)}
    assert measured_starts({}, [started(0.0)]) is not None
    quick = measured_starts({}, [started(0.0)])
    assert quick is not None and quick["latestSeconds"] == [1], "none takes no time"


@pytest.mark.parametrize(
    "more", [{"ready": False}, {"restarts": 1}, {"ready_unix_s": None}, {"scheduled_unix_s": None}]
)
def test_what_was_no_first_start_tells_nothing(more: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"ready_unix_s": NOW, "scheduled_unix_s": NOW - 9}
    assert measured_starts({}, [pod(OF, **{**plain, **more})]) is None


def test_each_start_counts_once_and_the_latest_are_kept() -> None:
    before = measured_starts({}, [started(5, NOW - 10)])
    assert measured_starts({"start": before}, [started(5, NOW - 10)]) == before
    after = measured_starts({"start": before}, [started(7, NOW), started(6, NOW - 5), started(5, NOW - 10)])
    assert after is not None and after["latestSeconds"] == [5, 6, 7] and after["latestAt"] == to_text(NOW)
    many = measured_starts({}, [started(second, NOW + second) for second in range(1, 13)])
    assert many is not None and many["latestSeconds"] == [5, 6, 7, 8, 9, 10, 11, 12]
    assert (many["p50Seconds"], many["p90Seconds"]) == (8, 12), "the nearest rank"
    two = measured_starts({}, [started(1, NOW), started(9, NOW + 1)])
    assert two is not None and (two["p50Seconds"], two["p90Seconds"]) == (1, 9)
    assert measured_starts({"start": {"latestSeconds": [3]}}, []) == {
        "p50Seconds": 3,
        "p90Seconds": 3,
        "latestSeconds": [3],
    }


def test_the_expected_gap_is_announcement_drain_and_start() -> None:
    assert expected_gap_s(OF, [pod(OF)]) is None
    of = model({"start": {"p90Seconds": 12}})
    idle = ANNOUNCE_S + DRAIN_NOTICE_S + 12
    assert expected_gap_s(of, [pod(of, engine=engine())]) == idle
    assert expected_gap_s(of, [pod(of)]) == idle
    assert expected_gap_s(of, [pod(of, engine=engine(running=1))]) == idle + 30
    assert expected_gap_s(of, [pod(of, engine=engine(waiting=1))]) == idle + 30
    assert expected_gap_s(of, [pod(of, engine=engine(running=1), ready=False)]) == idle
    assert expected_gap_s(of, [pod(of), pod(of, 1, engine=engine(running=1))]) == idle + 30


def test_a_gap_is_measured_when_somebody_serves_again() -> None:
    rollout = {
        "gapSince": to_text(NOW - 12),
        "revision": "r",
        "strategy": "Recreate",
        "startedAt": to_text(NOW - 60),
        "expectedGapSeconds": 40,
    }
    told = finished_rollout({"rollout": rollout}, 1, NOW)
    assert told is not None
    assert (told["measuredGapSeconds"], told["expectedGapSeconds"], told["finishedAt"]) == (12, 40, to_text(NOW))
    assert finished_rollout({"rollout": rollout}, 0, NOW) is None
    assert finished_rollout({"rollout": rollout, "lastRollout": told}, 0, NOW + 5) == told
    assert finished_rollout({"lastRollout": told}, 1, NOW + 5) == told
    del rollout["expectedGapSeconds"]
    unforeseen = finished_rollout({"rollout": rollout}, 1, NOW)
    assert unforeseen is not None and "expectedGapSeconds" not in unforeseen
