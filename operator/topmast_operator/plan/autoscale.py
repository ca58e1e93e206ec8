"""How many replicas a model's work needs: a pure function of the load, the time and its own earlier answer.

Enough is what keeps what arrives at the target utilisation, the KV caches below full, and works the backlog off in a
minute: the largest of the three. Source of the rules: Topmast's design, "Autoscaling rules".
Up goes the whole deficit at once: replicas that are starting are part of the answer, so they are never counted twice.
Down goes one replica, after a hold, and never while something is starting or numbers are missing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from topmast_operator.api.resource import Autoscaling
from topmast_operator.api.times import to_unix
from topmast_operator.plan.load import Load

KV_FULL = 0.85  # beyond it a replica begins to preempt
BACKLOG_HORIZON_S = 60.0  # a queue should be gone this long after the newest replica is ready


@dataclass(frozen=True)
class ScaleMemory:
    """What the next decision must know of this one. Kept in status, so it survives a restart."""

    desired: int
    low_since: float | None = None
    last_change: float | None = None


@dataclass(frozen=True)
class ScaleDecision:
    memory: ScaleMemory
    reason: str

    @property
    def desired(self) -> int:
        return self.memory.desired


def decide(policy: Autoscaling, memory: ScaleMemory, load: Load, now: float) -> ScaleDecision:
    """The wanted number of replicas, why, and what to remember."""
    least, most = policy.min_replicas, policy.max_replicas
    exact = _exact_need(policy, load)
    need = max(least, min(most, math.ceil(exact - 1e-6)))
    demand = _in_words(load, exact)
    capped = f"; {math.ceil(exact)} would be needed but maxReplicas is {most}" if exact > most else ""
    inside = max(least, min(most, memory.desired))
    if inside != memory.desired:
        return ScaleDecision(
            ScaleMemory(inside, None, now), f"{inside} replicas: spec.autoscaling allows {least} to {most}"
        )
    if need > memory.desired:
        return ScaleDecision(ScaleMemory(need, None, now), f"up from {memory.desired} to {need}: {demand}{capped}")
    # What is worked off asks for no more replicas; that it keeps those busy that there are takes none away either.
    need = max(need, min(most, math.ceil(_exact_need(policy, replace(load, drained=0.0)) - 1e-6)))
    if need >= memory.desired:
        return ScaleDecision(replace(memory, low_since=None), f"{memory.desired} replicas: {demand}{capped}")
    return _consider_shrinking(policy, memory, load, need, demand, now)


def _consider_shrinking(
    policy: Autoscaling, memory: ScaleMemory, load: Load, need: int, demand: str, now: float
) -> ScaleDecision:
    desired = memory.desired
    if load.unknown:
        held = replace(memory, low_since=None)
        return ScaleDecision(
            held, f"{desired} replicas: held, because {load.unknown} ready replicas report no fresh numbers"
        )
    if load.blind:
        held = replace(memory, low_since=None)
        return ScaleDecision(held, f"{desired} replicas: held, because {load.blind}; {demand}")
    if load.starting or load.ready + load.stuck < desired:
        held = replace(memory, low_since=None)
        return ScaleDecision(
            held, f"{desired} replicas: held until all of them have started ({load.ready} are ready); {demand}"
        )
    since = now if memory.low_since is None else memory.low_since
    wait_s = policy.hold_s - (now - since)
    if wait_s > 0:
        # Rounded up to ten seconds: a countdown in status would be a write per second.
        left = f"{math.ceil(wait_s / 10) * 10} s" if wait_s > 10 else "seconds"
        held = replace(memory, low_since=since)
        return ScaleDecision(held, f"{desired} replicas, {need} would do: {demand}; one less in {left} if it stays so")
    return ScaleDecision(
        ScaleMemory(desired - 1, None, now),
        f"down from {desired} to {desired - 1}: for {policy.hold_s:.0f} s {need} would have been enough; {demand}",
    )


def _exact_need(policy: Autoscaling, load: Load) -> float:
    steady = load.arriving / policy.target_utilization
    return max(steady, load.kv / KV_FULL, load.arriving + load.backlog_s / BACKLOG_HORIZON_S)


def _in_words(load: Load, exact: float) -> str:
    parts = [f"work of {load.work:.1f} replicas"] if exact >= 0.05 else []
    if load.drained >= 0.1:
        parts.append(f"{min(load.drained, load.work):.1f} of it from a queue that is worked off")
    if load.kv >= 0.1:
        parts.append(f"KV of {load.kv:.1f}")
    if load.waiting:
        waits = "1 request waits" if load.waiting == 1 else f"{load.waiting} requests wait"
        parts.append(f"{waits} at the gateways")
    if load.growth >= 0.1:
        parts.append(f"what comes would keep {load.growth:.1f} more busy")
    if load.backlog_s >= 1:
        parts.append(f"{load.backlog_s:.0f} s of waiting work")
    return ", ".join(parts) or "no work"


def remember(status: Mapping[str, Any], policy: Autoscaling, running: int) -> ScaleMemory:
    """The memory that an earlier pass left in status; else what runs, so that switching on removes nothing at once."""
    saved = status.get("autoscaling", {})
    if "desiredReplicas" not in saved:
        return ScaleMemory(max(policy.min_replicas, min(policy.max_replicas, running)))
    low, changed = saved.get("lowSince"), saved.get("lastScaleTime")
    return ScaleMemory(
        desired=saved["desiredReplicas"],
        low_since=to_unix(low) if low else None,
        last_change=to_unix(changed) if changed else None,
    )
