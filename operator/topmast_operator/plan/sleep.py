"""Whether a model sleeps, wakes or is awake: a pure function of its earlier answer, calls, and what the engines did.

Asleep, a call wakes it; waking, the first ready replica makes it awake; awake and idle long enough, it falls asleep.
It never falls asleep while it starts, while an engine has work, or while an engine that is ready tells nothing fresh.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from topmast_operator.api.facts import Facts, PodFacts
from topmast_operator.api.resource import Model
from topmast_operator.api.times import to_text, to_unix

STALE_S = 15.0


class SleepPhase(StrEnum):
    ASLEEP = "Asleep"
    WAKING = "Waking"
    AWAKE = "Awake"


@dataclass(frozen=True)
class SleepState:
    """`since` is when the state began, Unix seconds. `reason` is a sentence for a human."""

    state: SleepPhase
    since: float
    reason: str

    @property
    def asleep(self) -> bool:
        return self.state is SleepPhase.ASLEEP


def decide(facts: Facts) -> SleepState | None:
    """The state for now; None for a model that never sleeps, or that a person suspended."""
    model, now = facts.model, facts.now
    if model.sleep is None or model.suspend:
        return None
    ready = [pod for pod in facts.pods if pod.ready and not pod.deleting and not pod.draining]
    before = remember(model.status)
    if before is None:
        return _first(model, bool(ready), now)
    if before.state is SleepPhase.ASLEEP:
        # Both are whole seconds: a call of the same second counts, rather than being lost.
        if model.called_unix_s is not None and model.called_unix_s >= before.since:
            return SleepState(SleepPhase.WAKING, now, "a request asked for it")
        return before
    if before.state is SleepPhase.WAKING:
        return SleepState(SleepPhase.AWAKE, now, "a replica is ready") if ready else before
    return _awake(model, before, ready, now)


def remember(status: Mapping[str, Any]) -> SleepState | None:
    """What an earlier pass left in status."""
    saved = status.get("sleep")
    return SleepState(SleepPhase(saved["state"]), to_unix(saved["since"]), saved["reason"]) if saved else None


def render(state: SleepState) -> dict[str, str]:
    """`status.sleep`."""
    return {"state": str(state.state), "since": to_text(state.since), "reason": state.reason}


def eta_s(status: Mapping[str, Any], now: float) -> float | None:
    """Seconds until a replica should be ready, by measured starts; None when none was measured or it takes longer."""
    usual, before = status.get("start", {}).get("p90Seconds"), remember(status)
    if before is None or before.state is SleepPhase.AWAKE:
        return 0.0 if status.get("readyReplicas") else None
    if usual is None or before.state is SleepPhase.ASLEEP:
        return None if usual is None else float(usual)
    left = before.since + usual - now
    return left if left > 0 else None


def _first(model: Model, ready: bool, now: float) -> SleepState:
    """A model that is new, or that sleeps from now on: what runs stays, and `replicas: 0` begins asleep."""
    if ready:
        return SleepState(SleepPhase.AWAKE, now, "it serves already")
    if model.autoscaling or model.replicas:
        return SleepState(SleepPhase.WAKING, now, "it starts for the first time")
    return SleepState(SleepPhase.ASLEEP, now, "spec.replicas is 0 and nobody has asked for it yet")


def _awake(model: Model, before: SleepState, ready: Sequence[PodFacts], now: float) -> SleepState:
    assert model.sleep is not None
    if not ready or not all(_tells(pod) for pod in ready):
        return before
    active = [now - pod.engine.age_s - (pod.engine.idle_s or 0.0) for pod in ready if pod.engine]
    idle_s = now - max(before.since, model.called_unix_s or 0.0, *active)
    if idle_s < model.sleep.idle_s:
        return before
    return SleepState(SleepPhase.ASLEEP, now, f"no request came for {model.sleep.idle_s:.0f} s")


def _tells(pod: PodFacts) -> bool:
    return pod.engine is not None and pod.engine.idle_s is not None and pod.engine.age_s <= STALE_S
