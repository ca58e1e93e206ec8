"""How long starts take, by measurement, and what follows: the gap that a change in place is expected to cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from topmast_operator.api.facts import PodFacts
from topmast_operator.api.names import DRAIN_NOTICE_S
from topmast_operator.api.resource import Model
from topmast_operator.api.times import to_text, to_unix

KEPT_STARTS = 8
ANNOUNCE_S = 1.0


def measured_starts(status: Mapping[str, Any], pods: Sequence[PodFacts]) -> dict[str, Any] | None:
    """`status.start`: seconds from a node to Ready, of the latest starts; None before the first.

    Only first starts count: a pod that was restarted, or became ready again, tells nothing about a new one.
    """
    start: Mapping[str, Any] = status.get("start", {})
    seconds, counted = list(start.get("latestSeconds", ())), start.get("latestAt")
    after = to_unix(counted) if counted else 0.0
    fresh = sorted(
        (pod.ready_unix_s, pod.scheduled_unix_s)
        for pod in pods
        if pod.ready and not pod.restarts and pod.ready_unix_s and pod.scheduled_unix_s and pod.ready_unix_s > after
    )
    for ready_at, scheduled_at in fresh:
        seconds.append(max(1, math.ceil(ready_at - scheduled_at)))
        after = max(after, ready_at)
    if not seconds:
        return None
    seconds = seconds[-KEPT_STARTS:]
    shown = {"p50Seconds": _rank(seconds, 0.5), "p90Seconds": _rank(seconds, 0.9), "latestSeconds": seconds}
    return shown | ({"latestAt": to_text(after)} if after else {})


def expected_gap_s(model: Model, pods: Sequence[PodFacts]) -> float | None:
    """Seconds without the replica that makes way: announcement, drain, start. None before a start was measured.

    The drain counts whole where a replica has work: how long answers are is not known.
    """
    usual = model.status.get("start", {}).get("p90Seconds")
    if usual is None:
        return None
    busy = any(pod.engine and pod.engine.running + pod.engine.waiting for pod in pods if pod.ready)
    return ANNOUNCE_S + DRAIN_NOTICE_S + (model.drain_timeout_s if busy else 0.0) + float(usual)


def finished_rollout(before: Mapping[str, Any], ready: int, now: float) -> dict[str, Any] | None:
    """`status.lastRollout`: what the latest change in place was expected to cost, and what it did cost."""
    rollout = before.get("rollout", {})
    kept: dict[str, Any] | None = before.get("lastRollout")
    if "gapSince" in rollout and ready:
        kept = {
            "revision": rollout["revision"],
            "strategy": rollout["strategy"],
            "startedAt": rollout["startedAt"],
            "measuredGapSeconds": round(now - to_unix(rollout["gapSince"])),
            "finishedAt": to_text(now),
        }
        if "expectedGapSeconds" in rollout:
            kept["expectedGapSeconds"] = rollout["expectedGapSeconds"]
    return kept


def _rank(seconds: Sequence[int], share: float) -> int:
    """The nearest rank: with few samples the 90th percentile is the slowest one."""
    return sorted(seconds)[math.ceil(share * len(seconds)) - 1]
