"""How far a starting replica is, from what its engine says: words for `kubectl get`, numbers for status.

Percentages and seconds are rounded to 5: nobody reads them finer, and each change is a write.
"""

from collections.abc import Sequence
from typing import Any

from topmast_operator.api.facts import PodFacts
from topmast_operator.plan.findings import last_end

SHOWN = 20  # a thousand pods would make every status write half a megabyte

_WORDS = {"starting": "Starting", "loading": "Loading", "warming": "Warming up", "draining": "Draining"}


def slowest(pods: Sequence[PodFacts]) -> str:
    """The phase of the replica that is furthest from ready, `Loading 45% (10 s left)`; empty when nothing starts."""
    starting = [pod for pod in pods if not pod.ready and pod.engine and pod.engine.phase in _WORDS]
    order = list(_WORDS)
    last = min(starting, key=lambda pod: (order.index(_phase(pod)), _share(pod)), default=None)
    return _words(last) if last else ""


def notable(pods: Sequence[PodFacts]) -> list[PodFacts]:
    """The pods that status shows, by name: all of a small model, else those furthest from ready."""
    first = sorted(pods, key=lambda pod: (pod.ready and not pod.deleting, -pod.restarts, pod.name))[:SHOWN]
    return sorted(first, key=lambda pod: pod.name)


def describe(pod: PodFacts) -> dict[str, Any]:
    """One entry of `status.pods`."""
    shown: dict[str, Any] = {"name": pod.name, "revision": pod.revision, "phase": _state(pod)}
    if pod.node:
        shown["node"] = pod.node
    engine = pod.engine
    if engine and engine.phase == "loading" and engine.bytes_total > 0 and not pod.ready:
        shown |= {
            "percent": _percent(pod),
            "bytesDone": _percent(pod) * engine.bytes_total // 100,
            "bytesTotal": engine.bytes_total,
        }
        if engine.eta_s is not None:
            shown["etaSeconds"] = _rounded(engine.eta_s)
    if engine and engine.start_total_s is not None:
        shown["startSeconds"] = round(engine.start_total_s, 1)
    if pod.restarts:
        shown["restarts"] = pod.restarts
        if end := last_end(pod):
            shown |= {"lastEndReason": end.reason, "lastEnd": end.message}
    return shown


def _state(pod: PodFacts) -> str:
    if pod.ended:
        return pod.ended_reason or pod.phase
    if pod.deleting or pod.draining:
        return "Draining"
    if pod.ready:
        return "Ready"
    if pod.gates and not pod.node:
        return "SchedulingGated"
    if pod.scheduled is False:
        return "Unschedulable"
    if pod.engine and pod.engine.phase in _WORDS:
        return _WORDS[pod.engine.phase]
    return pod.waiting_reason or pod.phase


def _words(pod: PodFacts) -> str:
    word = _WORDS[_phase(pod)]
    if _phase(pod) != "loading" or pod.engine is None or pod.engine.bytes_total <= 0:
        return word
    left = "" if pod.engine.eta_s is None else f" ({_rounded(pod.engine.eta_s)} s left)"
    return f"{word} {_percent(pod)}%{left}"


def _phase(pod: PodFacts) -> str:
    return pod.engine.phase if pod.engine else "starting"


def _share(pod: PodFacts) -> float:
    engine = pod.engine
    return engine.bytes_done / engine.bytes_total if engine and engine.bytes_total > 0 else 0.0


def _percent(pod: PodFacts) -> int:
    return int(min(1.0, _share(pod)) * 20) * 5


def _rounded(seconds: float) -> int:
    return max(5, round(seconds / 5) * 5)
