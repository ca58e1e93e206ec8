"""What is worth an Event: the differences between the last status and the next one that a human would want to hear of.

Made from two statuses and nothing else, so a restart repeats nothing and a failed status write loses nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A condition that turns to this status is news; the other direction is told by Ready.
_BAD = {
    "Stalled": "True",
    "ModelAvailable": "False",
    "CapacityAvailable": "False",
    "AcceleratorUsed": "False",
    "AccessResolved": "False",
}


@dataclass(frozen=True)
class Event:
    """One Event about a model. `action` is what the operator was doing, in CamelCase."""

    warning: bool
    reason: str
    action: str
    message: str


def events_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Event, ...]:
    """The Events for one change of status."""
    events = []
    if after["revision"] != before.get("revision"):
        old = f", after {before['revision']}" if before.get("revision") else ""
        events.append(Event(False, "NewRevision", "Rollout", f"The spec asks for revision {after['revision']}{old}."))
    events += _scaling(before.get("autoscaling", {}), after.get("autoscaling", {}))
    rollout = after.get("rollout", {})
    if rollout and rollout.get("strategy") != before.get("rollout", {}).get("strategy"):
        events.append(
            Event(rollout["strategy"] in ("Wait", "Rollback"), rollout["strategy"], "Rollout", _plan(rollout))
        )
    events += [*_gap(before, after), *_strays(before, after), *_restarts(before, after)]
    earlier = {item["type"]: item for item in before.get("conditions", ())}
    for item in after["conditions"]:
        events += _condition(earlier.get(item["type"], {}), item)
    return tuple(events)


def _plan(rollout: Mapping[str, Any]) -> str:
    gap = rollout.get("expectedGapSeconds")
    reason: str = rollout["reason"]
    return reason + (f"; expected gap {gap} s" if gap else "")


def _strays(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    """Pods that somebody else made with the model's labels: they get its traffic, and count for nothing here."""
    return [
        Event(
            True,
            "StrayPod",
            "Observe",
            f"Pod {name} carries this model's labels and is not Topmast's: its Service sends traffic there. "
            "Take the label topmast.dev/model off it, or delete it.",
        )
        for name in after.get("strays", ())
        if name not in before.get("strays", ())
    ]


def _gap(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    last = after.get("lastRollout", {})
    if not last or last == before.get("lastRollout"):
        return []
    expected = f", {last['expectedGapSeconds']} s were expected" if "expectedGapSeconds" in last else ""
    message = f"Nothing answered for {last['measuredGapSeconds']} s{expected}; requests were held."
    return [Event(False, "GapMeasured", "Rollout", message)]


def _scaling(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    old, new = before.get("desiredReplicas"), after.get("desiredReplicas")
    if new is None or old is None or new == old:
        return []
    return [Event(False, "ScaledUp" if new > old else "ScaledDown", "Autoscale", after["reason"])]


def _restarts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    """Engines that were restarted since, with their last words: the pod may be well again long before anyone looks."""
    known = {pod["name"]: pod.get("restarts", 0) for pod in before.get("pods", ())}
    said = {item["reason"] for item in after["conditions"] if _BAD.get(item["type"]) == item["status"]}
    return [
        Event(True, pod["lastEndReason"], "Restart", pod["lastEnd"])
        for pod in after["pods"]
        if pod.get("restarts", 0) > known.get(pod["name"], 0) and pod.get("lastEndReason", "") not in {"", *said}
    ]


def _condition(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    kind, status, reason = after["type"], after["status"], after["reason"]
    if kind == "Ready":
        if status == "True" and (before.get("status"), before.get("reason")) != (status, reason):
            return [Event(False, reason if reason == "Sleeping" else "Ready", "Observe", after["message"])]
        if status == "False" and before.get("status") == "True":
            return [Event(reason not in _PLANNED, "NotReady", "Observe", after["message"])]
        news = reason != before.get("reason") and reason in _NOT_TOLD_OTHERWISE
        return [Event(True, reason, "Observe", after["message"])] if news else []
    if kind == "AutoscalingActive" and reason in _OVERRULED and reason != before.get("reason"):
        return [Event(True, reason, "Autoscale", after["message"])]
    if _BAD.get(kind) == status and (before.get("status"), before.get("reason")) != (status, reason):
        return [Event(True, reason, "Observe", after["message"])]
    return []


_OVERRULED = frozenset({"ScalingTwice", "ScaleIgnored"})
_PLANNED = frozenset({"Draining", "RollingOut", "Starting", "Waking"})
_NOT_TOLD_OTHERWISE = frozenset({"ImagePull", "ContainerConfig"})
