"""What is worth an Event: the differences between the last status and the next one that a human would want to hear of.

Made from two statuses and nothing else, so a restart repeats nothing and a failed status write loses nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A condition that turns to this status is news; the other direction is told by Ready.
_BAD = {"Stalled": "True", "ModelAvailable": "False", "CapacityAvailable": "False", "AcceleratorUsed": "False"}


@dataclass(frozen=True)
class Note:
    """One Event about a model. `action` is what the operator was doing, in CamelCase."""

    warning: bool
    reason: str
    action: str
    message: str


def notes_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Note, ...]:
    """The Events for one change of status."""
    notes = []
    if after["revision"] != before.get("revision"):
        old = f", after {before['revision']}" if before.get("revision") else ""
        notes.append(Note(False, "NewRevision", "Rollout", f"The spec asks for revision {after['revision']}{old}."))
    notes += _scaling(before.get("autoscaling", {}), after.get("autoscaling", {}))
    rollout = after.get("rollout", {})
    if rollout and rollout.get("strategy") != before.get("rollout", {}).get("strategy"):
        notes.append(
            Note(rollout["strategy"] in ("Wait", "Rollback"), rollout["strategy"], "Rollout", rollout["reason"])
        )
    notes += _restarts(before, after)
    earlier = {item["type"]: item for item in before.get("conditions", ())}
    for item in after["conditions"]:
        notes += _condition(earlier.get(item["type"], {}), item)
    return tuple(notes)


def _scaling(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Note]:
    old, new = before.get("desiredReplicas"), after.get("desiredReplicas")
    if new is None or old is None or new == old:
        return []
    return [Note(False, "ScaledUp" if new > old else "ScaledDown", "Autoscale", after["reason"])]


def _restarts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Note]:
    """Engines that were restarted since, with their last words: the pod may be well again long before anyone looks."""
    known = {pod["name"]: pod.get("restarts", 0) for pod in before.get("pods", ())}
    told = {item["reason"] for item in after["conditions"] if _BAD.get(item["type"]) == item["status"]}
    return [
        Note(True, pod["lastEndReason"], "Restart", pod["lastEnd"])
        for pod in after["pods"]
        if pod.get("restarts", 0) > known.get(pod["name"], 0) and pod.get("lastEndReason", "") not in {"", *told}
    ]


def _condition(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Note]:
    kind, status, reason = after["type"], after["status"], after["reason"]
    if kind == "Ready":
        if status == "True" and (before.get("status"), before.get("reason")) != (status, reason):
            return [Note(False, reason if reason == "Sleeping" else "Ready", "Observe", after["message"])]
        if status == "False" and before.get("status") == "True":
            return [Note(reason not in _PLANNED, "NotReady", "Observe", after["message"])]
        told = reason != before.get("reason") and reason in _NOT_TOLD_OTHERWISE
        return [Note(True, reason, "Observe", after["message"])] if told else []
    if _BAD.get(kind) == status and (before.get("status"), before.get("reason")) != (status, reason):
        return [Note(True, reason, "Observe", after["message"])]
    return []


_PLANNED = frozenset({"Draining", "RollingOut", "Starting", "Waking"})
_NOT_TOLD_OTHERWISE = frozenset({"ImagePull", "ContainerConfig"})
