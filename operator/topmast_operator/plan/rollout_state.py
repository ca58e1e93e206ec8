"""What a rollout is decided from, what is decided, and what of it stays in `status.rollout` for the next pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from topmast_operator.api.facts import QuotaFacts
from topmast_operator.api.times import to_text, to_unix
from topmast_operator.plan.findings import Finding
from topmast_operator.plan.give_way import Amounts, Refusal, Strategy


class Phase(StrEnum):
    """Where a rollout is. The state diagram is in docs/operator.md."""

    NONE = "None"  # one revision runs, or none is wanted
    SURGING = "Surging"  # a new replica becomes ready beside the old ones
    WAITING = "Waiting"  # a check refuses: nothing is taken away
    ANNOUNCED = "Announced"  # the plan stands in status: the next pass takes the first replica
    SWAPPING = "Swapping"  # an old replica makes way, its successor starts in its room
    RETURNING = "Returning"  # the new revision failed: the last good one takes its room back
    PAUSED = "Paused"


class How(StrEnum):
    """The strategy that is carried out, as status tells it."""

    NONE = "None"
    SURGE = "Surge"
    REPLACE = "Replace"
    RECREATE = "Recreate"
    WAIT = "Wait"
    ROLLBACK = "Rollback"
    PAUSED = "Paused"


@dataclass(frozen=True)
class RevisionView:
    """What the rollout must know of one revision. `ready` counts pods that are ready and not about to leave."""

    name: str
    replicas: int
    ready: int
    placed: int  # pods to stay that have a node
    pods: int  # pods that exist, leaving ones too
    proven: bool
    created: float
    crowded: bool  # a pod of it waits for room that a leaving replica would free
    amounts: Amounts


@dataclass(frozen=True)
class RolloutMemory:
    """What the next pass must know of this one. Kept in `status.rollout`, so it survives a restart."""

    revision: str
    phase: Phase
    started: float
    gap_since: float | None = None
    expected_gap_s: float | None = None  # as it was announced


@dataclass(frozen=True)
class Situation:
    """Everything that a rollout is decided from."""

    wanted: int
    target: RevisionView
    others: Sequence[RevisionView]
    strategy: Strategy
    now: float
    paused: bool = False
    surge_wait_s: float = 0.0
    history: int = 0
    memory: RolloutMemory | None = None
    failed: Finding | None = None  # the target is given up
    findings: Sequence[Finding] = ()  # about its pods and its check pod; that one waits for room is none
    checked: bool = False
    check_node: str | None = None
    room_for_one: bool | None = None  # None: unknown, or no accelerator is asked for
    quotas: Sequence[QuotaFacts] = ()
    pods_refused: str = ""
    expected_gap_s: float | None = None  # of one replica's change in place; None before a start was measured


@dataclass(frozen=True)
class Rollout:
    """The answer: replicas of every revision, Deployments that may go, and what is saved."""

    replicas: Mapping[str, int]
    delete: tuple[str, ...]
    how: How
    phase: Phase
    reason: str
    check: bool = False  # the check pod of the target is wanted
    refusal: Refusal | None = None
    steps: tuple[str, ...] = ()
    expected_gap_s: float | None = None
    memory: RolloutMemory | None = field(default=None, compare=False)


def remember(status: Mapping[str, Any]) -> RolloutMemory | None:
    """What an earlier pass left in status."""
    saved = status.get("rollout")
    if not saved or "phase" not in saved:
        return None
    gap = saved.get("gapSince")
    return RolloutMemory(
        revision=saved["revision"],
        phase=Phase(saved["phase"]),
        started=to_unix(saved["startedAt"]),
        gap_since=to_unix(gap) if gap else None,
        expected_gap_s=saved.get("expectedGapSeconds"),
    )


def render(rollout: Rollout) -> dict[str, Any] | None:
    """`status.rollout`; None when there is nothing to tell."""
    memory = rollout.memory
    if rollout.how is How.NONE or memory is None:
        return None
    shown: dict[str, Any] = {
        "strategy": str(rollout.how),
        "phase": str(rollout.phase),
        "reason": rollout.reason,
        "revision": memory.revision,
        "startedAt": to_text(memory.started),
    }
    if rollout.refusal:
        shown["refusedBy"] = rollout.refusal.check
    if rollout.steps:
        shown["steps"] = list(rollout.steps)
    if memory.expected_gap_s is not None:
        shown["expectedGapSeconds"] = round(memory.expected_gap_s)
    if memory.gap_since is not None:
        shown["gapSince"] = to_text(memory.gap_since)
    return shown
