"""How many replicas a model's work needs: a pure function of the load, the time and its own earlier answer.

Demand is token work (input over the measured prefill rate, output over the measured decode rate), plus KV residency,
plus backlog, all in replicas. Source of the rules: Topmast's design, "Autoscaling rules".
Up goes the whole deficit at once: replicas that are starting are part of the answer, so they are never counted twice.
Down goes one replica, after a hold, and never while something is starting or a replica's numbers are missing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from topmast_operator.api.facts import EngineState, PodFacts
from topmast_operator.api.resource import Autoscaling
from topmast_operator.api.times import to_unix

KV_FULL = 0.85  # beyond it a replica begins to preempt
BACKLOG_HORIZON_S = 60.0  # a queue should be gone this long after the newest replica is ready
STALE_S = 15.0


@dataclass(frozen=True)
class Load:
    """What the replicas carry, in replica units (1.0 is all that one replica can do), and how far it can be trusted."""

    work: float = 0.0
    kv: float = 0.0
    backlog_s: float = 0.0  # seconds that one replica would need for what is waiting
    ready: int = 0
    starting: int = 0
    stuck: int = 0  # cannot be scheduled: neither supply nor a start to wait for
    unknown: int = 0  # ready replicas whose numbers are missing or stale


@dataclass(frozen=True)
class Memory:
    """What the next decision must know of this one. Kept in status, so it survives a restart."""

    desired: int
    low_since: float | None = None
    last_change: float | None = None


@dataclass(frozen=True)
class Decision:
    memory: Memory
    reason: str

    @property
    def desired(self) -> int:
        return self.memory.desired


def measure(pods: Sequence[PodFacts]) -> Load:
    """The load of a model's pods, summed over all of them."""
    load = Load()
    for pod in pods:
        if pod.deleting or pod.draining:
            continue
        engine = pod.engine
        if pod.scheduled is False:
            load = replace(load, stuck=load.stuck + 1)
        elif not pod.ready:
            load = replace(load, starting=load.starting + 1)
        elif engine is None or not _is_telling(engine):
            load = replace(load, ready=load.ready + 1, unknown=load.unknown + 1)
        else:
            prefill_s = engine.offered_input_tokens_per_s / engine.prefill_tokens_per_s
            decode_s = engine.output_tokens_per_s / engine.decode_tokens_per_s
            load = replace(
                load,
                ready=load.ready + 1,
                work=load.work + prefill_s + decode_s,
                kv=load.kv + (engine.kv_tokens_used / engine.kv_tokens if engine.kv_tokens > 0 else 0.0),
                backlog_s=load.backlog_s + engine.waiting_prompt_tokens / engine.prefill_tokens_per_s,
            )
    return load


def decide(policy: Autoscaling, memory: Memory, load: Load, now: float) -> Decision:
    """The wanted number of replicas, why, and what to remember."""
    least, most = policy.min_replicas, policy.max_replicas
    exact = _exact_need(policy, load)
    need = max(least, min(most, math.ceil(exact - 1e-6)))
    demand = _in_words(load, exact)
    capped = f"; {math.ceil(exact)} would be needed but maxReplicas is {most}" if exact > most else ""
    inside = max(least, min(most, memory.desired))
    if inside != memory.desired:
        return Decision(Memory(inside, None, now), f"{inside} replicas: spec.autoscaling allows {least} to {most}")
    if need > memory.desired:
        return Decision(Memory(need, None, now), f"up from {memory.desired} to {need}: {demand}{capped}")
    if need == memory.desired:
        return Decision(replace(memory, low_since=None), f"{need} replicas: {demand}{capped}")
    return _consider_shrinking(policy, memory, load, need, demand, now)


def _is_telling(engine: EngineState) -> bool:
    return engine.age_s <= STALE_S and min(engine.prefill_tokens_per_s, engine.decode_tokens_per_s) > 0


def _consider_shrinking(
    policy: Autoscaling, memory: Memory, load: Load, need: int, demand: str, now: float
) -> Decision:
    desired = memory.desired
    if load.unknown:
        held = replace(memory, low_since=None)
        return Decision(
            held, f"{desired} replicas: held, because {load.unknown} ready replicas report no fresh numbers"
        )
    if load.starting or load.ready + load.stuck < desired:
        held = replace(memory, low_since=None)
        return Decision(
            held, f"{desired} replicas: held until all of them have started ({load.ready} are ready); {demand}"
        )
    since = now if memory.low_since is None else memory.low_since
    wait_s = policy.hold_s - (now - since)
    if wait_s > 0:
        # Rounded up to ten seconds: a countdown in status would be a write per second.
        left = f"{math.ceil(wait_s / 10) * 10} s" if wait_s > 10 else "seconds"
        held = replace(memory, low_since=since)
        return Decision(held, f"{desired} replicas, {need} would do: {demand}; one less in {left} if it stays so")
    return Decision(
        Memory(desired - 1, None, now),
        f"down from {desired} to {desired - 1}: for {policy.hold_s:.0f} s {need} would have been enough; {demand}",
    )


def _exact_need(policy: Autoscaling, load: Load) -> float:
    steady = max(load.work / policy.target_utilization, load.kv / KV_FULL)
    return steady + load.backlog_s / BACKLOG_HORIZON_S


def _in_words(load: Load, exact: float) -> str:
    if exact < 0.05:
        return "no work"
    parts = [f"work of {load.work:.1f} replicas"]
    if load.kv >= 0.1:
        parts.append(f"KV of {load.kv:.1f}")
    if load.backlog_s >= 1:
        parts.append(f"{load.backlog_s:.0f} s of waiting prompts")
    return ", ".join(parts)


def remember(status: Mapping[str, Any], policy: Autoscaling, running: int) -> Memory:
    """The memory that an earlier pass left in status; else what runs, so that switching on removes nothing at once."""
    saved = status.get("autoscaling", {})
    if "desiredReplicas" not in saved:
        return Memory(max(policy.min_replicas, min(policy.max_replicas, running)))
    low, changed = saved.get("lowSince"), saved.get("lastScaleTime")
    return Memory(
        desired=saved["desiredReplicas"],
        low_since=to_unix(low) if low else None,
        last_change=to_unix(changed) if changed else None,
    )
