"""May an old replica leave before its successor is Ready? Only when every check of `CHECKS` agrees, in this order.

The list is the specification: each check either lets the next one look or refuses, with the sentence that status tells.
docs/operator.md shows it as a table that is made from here. Nothing here looks at anything but a `Swap`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from topmast_operator.api import quantity
from topmast_operator.api.facts import QuotaFacts
from topmast_operator.plan.findings import Finding, Kind, refused_pods


class Strategy(StrEnum):
    """What `spec.rollout.strategy` asks for. One more replica, or one less, for the time of a start?"""

    AUTO = "Auto"  # Surge where a further replica finds room, else Replace, or Recreate with a single replica
    SURGE = "Surge"  # a new replica first, always: waits for room and never lowers capacity
    REPLACE = "Replace"  # an old replica leaves first, one at a time, and never the only one
    RECREATE = "Recreate"  # an old replica leaves first, one at a time, even when it is the only one


@dataclass(frozen=True)
class Amounts:
    """What a replica asks of its node and where it may run, as its pinned template says."""

    requests: Mapping[str, str]
    nodes: Mapping[str, Any]  # node selector, affinity, priority class and the like

    @classmethod
    def of(cls, template: Mapping[str, Any]) -> "Amounts":
        pod = template["spec"]
        names = ("nodeSelector", "affinity", "priorityClassName", "schedulerName", "runtimeClassName")
        asked: dict[str, str] = {}
        for container in pod["containers"]:
            asked |= container.get("resources", {}).get("requests", {})
        return cls(asked, {name: pod[name] for name in names if pod.get(name)})


@dataclass(frozen=True)
class Swap:
    """The step that is judged: one replica of `old` leaves, one of the wanted revision takes its room."""

    strategy: Strategy
    proven: bool  # a replica of it was Ready already
    findings: Sequence[Finding]  # about its pods and its check pod; that one waits for room is none
    checked: bool  # `topmast check` ended well in a pod with its image and its volumes
    old: Amounts
    new: Amounts
    wanted: int
    ready: int  # over all revisions
    leaving_is_ready: bool  # else it serves nobody, and its leaving costs nothing
    quotas: Sequence[QuotaFacts] = ()
    pods_refused: str = ""  # why Kubernetes makes no pods for the wanted revision
    surge_left_s: float = 0.0  # of spec.rollout.surgeWaitSeconds
    announced: bool = True  # the plan stands in status


@dataclass(frozen=True)
class Refusal:
    """Why not now. `finding` is there when a human may have to act; `passing` refusals end by themselves."""

    check: str
    reason: str
    message: str
    finding: Finding | None = None
    passing: bool = False


Check = Callable[[Swap], Refusal | None]


def first_refusal(swap: Swap, checks: Sequence[Check] | None = None) -> Refusal | None:
    """What the first check that refuses says; None when the old replica may leave."""
    return next((refusal for check in checks or CHECKS if (refusal := check(swap))), None)


def its_image_can_be_pulled(swap: Swap) -> Refusal | None:
    """The image of the new revision cannot be pulled."""
    return _found(its_image_can_be_pulled, swap, Kind.IMAGE)


def its_claim_can_be_mounted(swap: Swap) -> Refusal | None:
    """The claim of its model source is missing, has no volume, or does not mount."""
    return _found(its_claim_can_be_mounted, swap, Kind.CLAIM)


def its_container_can_be_made(swap: Swap) -> Refusal | None:
    """Its container cannot be configured, or refuses its arguments."""
    return _found(its_container_can_be_made, swap, Kind.CONFIG)


def its_files_are_good(swap: Swap) -> Refusal | None:
    """The files of its model are missing, damaged, or of a kind that the engine does not run."""
    return _found(its_files_are_good, swap, Kind.MODEL)


def it_does_not_crash(swap: Swap) -> Refusal | None:
    """It ended while it started, or ran out of memory."""
    return _found(it_does_not_crash, swap, Kind.CRASH)


def it_moves(swap: Swap) -> Refusal | None:
    """It starts, and gets no further."""
    return _found(it_moves, swap, Kind.PROGRESS)


def a_node_takes_it(swap: Swap) -> Refusal | None:
    """No schedulable node has its labels, or all have taints that it does not tolerate."""
    return _found(a_node_takes_it, swap, Kind.NODES)


def pods_are_allowed(swap: Swap) -> Refusal | None:
    """Admission refuses its pods for another reason than a quota."""
    if not swap.pods_refused or "exceeded quota" in swap.pods_refused:
        return None
    finding = refused_pods(swap.pods_refused)
    return Refusal(pods_are_allowed.__name__, finding.reason, finding.message, finding)


def the_quota_allows_it(swap: Swap) -> Refusal | None:
    """The namespace's quota has no room for it, even when an old replica has left."""
    for quota in swap.quotas:
        for name, amount in swap.new.requests.items():
            for key in (name, f"requests.{name}"):
                if key not in quota.hard:
                    continue
                used, hard = quantity.parse(quota.used.get(key, "0")), quantity.parse(quota.hard[key])
                after = used - quantity.parse(swap.old.requests.get(name, "0")) + quantity.parse(amount)
                if after > hard:
                    message = (
                        f"the quota {quota.name} allows {quota.hard[key]} {key} and {quota.used.get(key, '0')} are "
                        f"used: the new revision needs {amount} and an old replica frees "
                        f"{swap.old.requests.get(name, 'none')}. Raise the quota or lower spec.resources"
                    )
                    return Refusal(the_quota_allows_it.__name__, "QuotaTooSmall", message)
    return None


def it_fits_into_the_room_that_leaves(swap: Swap) -> Refusal | None:
    """It needs more than an old replica frees, or other nodes."""
    lacking = ""
    if swap.new.nodes != swap.old.nodes:
        lacking = "other nodes (spec.placement, spec.pod)"
    for name, amount in swap.new.requests.items():
        if quantity.parse(amount) > quantity.parse(swap.old.requests.get(name, "0")):
            lacking = lacking or f"more {name} ({amount}, not {swap.old.requests.get(name, 'none')})"
    if not lacking:
        return None
    message = (
        f"the new revision finds no room and needs {lacking} than an old replica would free: add capacity, ask for "
        "less, or set spec.suspend: true for a moment to let the old replicas go first"
    )
    return Refusal(it_fits_into_the_room_that_leaves.__name__, "NeedsMoreRoom", message)


def the_strategy_allows_a_gap(swap: Swap) -> Refusal | None:
    """The strategy is Surge, or it is Replace and there is one replica."""
    message = ""
    if swap.strategy is Strategy.SURGE:
        message = "there is no room for a further replica and spec.rollout.strategy is Surge: it waits for room"
    elif swap.strategy is Strategy.REPLACE and swap.wanted == 1:
        message = (
            "spec.rollout.strategy is Replace, which never takes the only replica: it waits for room for a second one; "
            "Recreate would accept a gap of one start"
        )
    return Refusal(the_strategy_allows_a_gap.__name__, "WaitsForRoom", message, passing=True) if message else None


def a_new_node_was_waited_for(swap: Swap) -> Refusal | None:
    """`surgeWaitSeconds` are not over: a node autoscaler may still bring room."""
    if swap.surge_left_s <= 0:
        return None
    message = (
        f"there is no room for a further replica: a new node is waited for, at most {_tens(swap.surge_left_s)} s more "
        "(spec.rollout.surgeWaitSeconds)"
    )
    return Refusal(a_new_node_was_waited_for.__name__, "WaitsForNode", message, passing=True)


def it_was_proven_without_its_room(swap: Swap) -> Refusal | None:
    """The check pod (image, volumes, model files, without an accelerator) has not ended well yet."""
    if swap.proven or swap.checked:
        return None
    message = (
        "before an old replica makes way, a pod without an accelerator checks the new revision's image, volumes and "
        "model files on its node"
    )
    return Refusal(it_was_proven_without_its_room.__name__, "Checking", message, passing=True)


def the_others_serve(swap: Swap) -> Refusal | None:
    """Another replica is not ready: one that serves may not leave too."""
    if not swap.leaving_is_ready or swap.ready >= swap.wanted:
        return None
    message = f"{swap.ready} of {swap.wanted} replicas serve: the next one leaves when all of them do"
    return Refusal(the_others_serve.__name__, "OthersNotReady", message, passing=True)


def the_plan_is_announced(swap: Swap) -> Refusal | None:
    """The plan, with its steps and the gap that it expects, does not stand in status yet."""
    if swap.announced:
        return None
    message = "the plan stands in status before anything is taken away"
    return Refusal(the_plan_is_announced.__name__, "Announcing", message, passing=True)


CHECKS: tuple[Check, ...] = (
    its_image_can_be_pulled,
    its_claim_can_be_mounted,
    its_container_can_be_made,
    its_files_are_good,
    it_does_not_crash,
    it_moves,
    a_node_takes_it,
    pods_are_allowed,
    the_quota_allows_it,
    it_fits_into_the_room_that_leaves,
    the_strategy_allows_a_gap,
    a_new_node_was_waited_for,
    it_was_proven_without_its_room,
    the_others_serve,
    the_plan_is_announced,
)


def _found(check: Check, swap: Swap, kind: Kind) -> Refusal | None:
    found = [finding for finding in swap.findings if finding.kind is kind]
    if not found:
        return None
    first = max(found, key=lambda finding: finding.severity)
    return Refusal(check.__name__, first.reason, first.message, first)


def _tens(seconds: float) -> int:
    """Rounded up: a countdown in status would be a write per second."""
    return -int(-seconds // 10) * 10
