"""How a model gets from the revisions that run to the one that the spec asks for, one step per reconcile.

Surge where a further replica finds room; else one old replica leaves first; never the last good one for a successor
that its room would not help, and no Deployment that served is deleted before its successor was Ready itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from topmast_operator.api import quantity


class Strategy(StrEnum):
    NONE = "None"
    SURGE = "Surge"
    REPLACE = "Replace"
    RECREATE = "Recreate"
    WAIT = "Wait"
    ROLLBACK = "Rollback"


@dataclass(frozen=True)
class Revision:
    """What the rollout must know of one revision. `ready` counts pods that are ready and not about to leave."""

    name: str
    replicas: int
    ready: int
    pods: int
    proven: bool
    created: float
    unschedulable: bool
    template: Mapping[str, Any]


@dataclass(frozen=True)
class Rollout:
    replicas: Mapping[str, int]
    delete: tuple[str, ...]
    strategy: Strategy
    reason: str


def plan_rollout(
    wanted: int, target: Revision, others: Sequence[Revision], *, blocked: bool, room_for_one: bool | None
) -> Rollout:
    """The replicas of every revision for now, which Deployments may go, and why.

    `blocked`: the target cannot start until a human acts. `room_for_one`: whether the free accelerators take one more
    replica of the target; None when that is unknown or no accelerator is asked for.
    """
    good = _last_good(others)
    useless = [other for other in others if not other.proven and other.ready == 0]
    if wanted == 0:
        done = tuple(other.name for other in others if other.pods == 0 and (target.proven or not other.proven))
        return Rollout(_only(target, others, 0), done, Strategy.NONE, "no replica is wanted")
    if blocked:
        return _fall_back(wanted, target, others, good)
    active = [other for other in others if other not in useless and (other.replicas > 0 or other.ready > 0)]
    if not active:
        finished = target.proven and target.ready >= wanted
        gone = [other.name for other in others if other.pods == 0 and (finished or other in useless)]
        if good and not target.proven:
            told = f"the old replicas have left, revision {target.name} is starting in their room"
            return Rollout(_only(target, others, wanted), tuple(gone), Strategy.RECREATE, told)
        return Rollout(_only(target, others, wanted), tuple(gone), Strategy.NONE, "only one revision runs")
    strategy, reason = _choose(wanted, target, active, room_for_one)
    spare = 1 if strategy in (Strategy.REPLACE, Strategy.RECREATE) else 0
    running_old = sum(other.replicas for other in active)
    keep_old = min(running_old, max(0, wanted - target.ready - spare))
    missing = wanted - keep_old
    step = missing if spare else max(missing, target.ready + 1)
    # A replica of the target that is there already is kept, ready or not, while the surge of one allows it.
    grown = min(wanted, max(step, min(target.replicas, missing + 1)))
    replicas = {**{other.name: 0 for other in others}, **_share(active, keep_old, good), target.name: grown}
    gone = [other.name for other in useless if other.pods == 0]
    return Rollout(replicas, tuple(gone), strategy, reason)


def _choose(
    wanted: int, target: Revision, active: Sequence[Revision], room_for_one: bool | None
) -> tuple[Strategy, str]:
    crowded = target.unschedulable or (room_for_one is False and target.pods <= target.ready)
    if not crowded:
        return Strategy.SURGE, "a new replica becomes ready before an old one leaves"
    lacking = _more_than_old(target, active)
    if lacking:
        return Strategy.WAIT, (
            f"the new revision finds no room and needs {lacking} than an old replica would free: "
            "add capacity, ask for less, or set spec.suspend: true for a moment to let the old replicas go first"
        )
    if wanted > 1:
        return Strategy.REPLACE, f"there is no room for one more replica: replacing one of {wanted} at a time"
    return Strategy.RECREATE, "there is no room for a second replica: the old one leaves first, with a gap of one start"


def _more_than_old(target: Revision, active: Sequence[Revision]) -> str:
    """What the target asks for and the leaving replica does not free, in words; empty when its room is enough."""
    smallest = min(active, key=lambda other: other.created)
    new, old = _requests(target.template), _requests(smallest.template)
    if _nodes(target.template) != _nodes(smallest.template):
        return "other nodes (spec.placement)"
    for resource, amount in new.items():
        if quantity.parse(amount) > quantity.parse(old.get(resource, "0")):
            return f"more {resource} ({amount}, not {old.get(resource, 'none')})"
    return ""


def _requests(template: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = template["spec"]["containers"][0].get("resources", {}).get("requests", {})
    return found


def _nodes(template: Mapping[str, Any]) -> tuple[Any, Any]:
    return template["spec"].get("nodeSelector", {}), template["spec"].get("priorityClassName")


def _fall_back(wanted: int, target: Revision, others: Sequence[Revision], good: Revision | None) -> Rollout:
    replicas = _only(target, others, 0)
    gone = tuple(other.name for other in others if other.pods == 0 and not other.proven)
    if good is None:
        return Rollout(
            replicas, gone, Strategy.NONE, f"revision {target.name} cannot start and there is no earlier one"
        )
    replicas[good.name] = wanted
    return Rollout(
        replicas, gone, Strategy.ROLLBACK, f"revision {target.name} cannot start: revision {good.name} keeps serving"
    )


def _last_good(others: Sequence[Revision]) -> Revision | None:
    proven = [other for other in others if other.proven or other.ready > 0]
    return max(proven, key=lambda other: (other.ready > 0, other.created), default=None)


def _only(target: Revision, others: Sequence[Revision], wanted: int) -> dict[str, int]:
    return {**{other.name: 0 for other in others}, target.name: wanted}


def _share(active: Sequence[Revision], total: int, good: Revision | None) -> dict[str, int]:
    """`total` old replicas among the old revisions: the last good one keeps its own first."""
    share: dict[str, int] = {}
    for other in sorted(active, key=lambda other: (other is not good, -other.ready, -other.created)):
        share[other.name] = min(other.replicas, total)
        total -= share[other.name]
    return share
