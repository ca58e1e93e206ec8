"""Conditions and phase of a model, in words, from what runs and what was decided.

Ready means that the spec is what serves: not during a rollout, although the old revision may well be answering then.
Reconciling and Stalled are never both true: whoever waits is told either to go on or to give up (kstatus).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from topmast_operator.api.conditions import (
    AUTOSCALING_ACTIVE,
    CAPACITY_AVAILABLE,
    MODEL_AVAILABLE,
    READY,
    RECONCILING,
    STALLED,
    Condition,
)
from topmast_operator.api.facts import PodFacts, Room
from topmast_operator.api.names import ANNOTATION_RETRY
from topmast_operator.api.resource import Model
from topmast_operator.plan.failures import Kind, Problem
from topmast_operator.plan.progress import slowest
from topmast_operator.plan.rollout import Rollout, Strategy
from topmast_operator.plan.sleep import Rest, State


@dataclass(frozen=True)
class Health:
    """Everything that conditions are made of. Counts are pods that stay; `problem` is the one to tell first."""

    model: Model
    revision: str
    wanted: int
    ready: int  # over all revisions
    ready_new: int  # of the wanted revision
    present: int  # pods that exist, leaving ones too, but not those that a lost node keeps for ever
    pods: Sequence[PodFacts]  # of the wanted revision
    rollout: Rollout
    problem: Problem | None
    stalled: Problem | None
    blocker: Problem | None  # not about pods: a name that is taken, a quota
    room: Room | None
    autoscaling_reason: str | None
    rest: Rest | None = None  # only of a model that may sleep

    @property
    def settled(self) -> bool:
        """Nothing more is to be done for this spec."""
        return self.ready_new >= self.wanted and self.present == self.wanted

    @property
    def asleep(self) -> bool:
        return self.rest is not None and self.rest.asleep

    @property
    def waking(self) -> bool:
        return self.rest is not None and self.rest.state is State.WAKING

    @property
    def enough(self) -> int:
        """Replicas that make the model Ready: with autoscaling, one that starts for more load lowers nothing."""
        scaling = self.model.autoscaling
        return min(self.wanted, scaling.min_replicas) if scaling else self.wanted


def conditions(health: Health) -> list[Condition]:
    """All conditions, in the order in which a human wants to read them."""
    return [
        _ready(health),
        _reconciling(health),
        _stalled(health),
        _model(health),
        _capacity(health),
        _autoscaling(health),
    ]


def phase(health: Health) -> str:
    """One short word or two for `kubectl get`."""
    if health.stalled or (health.blocker and health.blocker.permanent):
        return "Stalled"
    if health.wanted == 0:
        idle = "Suspended" if health.model.suspend else "Sleeping" if health.asleep else "Scaled to 0"
        return idle if health.present == 0 else "Draining"
    if health.settled:
        return "Ready"
    trouble = health.problem or health.blocker
    if trouble and health.ready_new < health.wanted:
        return {Kind.CAPACITY: "Pending"}.get(trouble.kind, trouble.reason)
    progress = slowest(health.pods)
    if health.waking:
        return f"Waking: {progress.lower()}" if progress else "Waking"
    if progress:
        return progress
    return "Rolling out" if health.present > len(health.pods) else "Starting"


def _ready(health: Health) -> Condition:
    if health.rest and health.asleep and not _gave_up(health):
        # Healthy, also while the last replica finishes what it has: asleep is how such a model is most of the time.
        told = f"No replica runs: {health.rest.reason}. A request through the gateway wakes the model."
        return Condition(READY, True, "Sleeping", told)
    if health.wanted == 0 and not health.asleep:
        if health.present:
            leaving = "1 replica finishes" if health.present == 1 else f"{health.present} replicas finish"
            return Condition(READY, False, "Draining", f"{leaving} what runs, then no replica is left, as asked.")
        why = "spec.suspend is true" if health.model.suspend else "spec.replicas is 0"
        return Condition(READY, True, "NoReplicasWanted", f"No replica runs, as asked: {why}.")
    if trouble := health.stalled or health.blocker:
        return Condition(READY, False, trouble.reason, _serving(health) + trouble.message)
    if health.ready_new >= health.enough and health.ready_new >= health.ready:
        told = f"{_part(health.ready_new, health.wanted)} ready with revision {health.revision}."
        return Condition(READY, True, "Serving", told)
    if health.problem:
        return Condition(READY, False, health.problem.reason, _serving(health) + health.problem.message)
    if health.ready > health.ready_new:
        told = (
            f"{health.ready} of {health.wanted} replicas serve, {health.ready_new} of them with the new revision "
            f"{health.revision}: {health.rollout.reason}."
        )
        return Condition(READY, False, "RollingOut", told)
    progress = slowest(health.pods)
    told = f"{_part(health.ready_new, health.wanted)} ready" + (f"; {progress.lower()}." if progress else ".")
    return Condition(READY, False, "Waking" if health.waking else "Starting", told)


def _serving(health: Health) -> str:
    return f"{health.ready} of {health.wanted} replicas serve. "


def _reconciling(health: Health) -> Condition:
    if _gave_up(health):
        return Condition(RECONCILING, False, "Stalled", "Nothing is being tried: see Stalled.")
    if health.settled and not health.blocker:
        return Condition(RECONCILING, False, "Done", "The cluster is as the spec asks.")
    if health.rollout.strategy is not Strategy.NONE:
        return Condition(RECONCILING, True, str(health.rollout.strategy), _sentence(health.rollout.reason))
    told = f"{_part(health.ready_new, health.wanted)} ready; pods that exist, leaving ones too: {health.present}."
    return Condition(RECONCILING, True, "Progressing", told)


def _stalled(health: Health) -> Condition:
    if health.stalled:
        again = f"kubectl annotate llm {health.model.name} {ANNOTATION_RETRY}=$(date +%s) --overwrite"
        told = f"{health.stalled.message} Nothing is tried until the spec changes, or you ask for another try: {again}"
        return Condition(STALLED, True, health.stalled.reason, told)
    if health.blocker and health.blocker.permanent:
        return Condition(STALLED, True, health.blocker.reason, health.blocker.message)
    return Condition(STALLED, False, "NotStalled", "Nothing waits for a human.")


def _gave_up(health: Health) -> bool:
    return bool(health.stalled or (health.blocker and health.blocker.permanent))


def _model(health: Health) -> Condition:
    trouble = next((p for p in (health.stalled, health.problem) if p and p.kind is Kind.MODEL), None)
    if trouble:
        return Condition(MODEL_AVAILABLE, False, trouble.reason, trouble.message)
    if health.ready:
        return Condition(MODEL_AVAILABLE, True, "Loaded", f"{_count(health.ready)} loaded it and generated with it.")
    return Condition(MODEL_AVAILABLE, None, "NotLoadedYet", "No replica has loaded the model yet.")


def _capacity(health: Health) -> Condition:
    waiting = [pod for pod in health.pods if pod.scheduled is False]
    trouble = health.problem
    if health.blocker and health.blocker.kind is Kind.CAPACITY:
        return Condition(CAPACITY_AVAILABLE, False, health.blocker.reason, health.blocker.message)
    if waiting and trouble and trouble.kind is Kind.CAPACITY:
        told = f"{len(waiting)} of {health.wanted} replicas find no node. {_numbers(health)}{trouble.message}"
        return Condition(CAPACITY_AVAILABLE, False, trouble.reason, f"{told} {_way_out(health)}")
    if trouble and trouble.kind is Kind.CAPACITY:
        return Condition(CAPACITY_AVAILABLE, False, trouble.reason, trouble.message)
    if waiting and health.rollout.strategy is not Strategy.NONE:
        told = f"{len(waiting)} of {health.wanted} replicas wait for the room of replicas that leave."
        return Condition(CAPACITY_AVAILABLE, None, "MakingRoom", told)
    if _gave_up(health) or not health.wanted:
        return Condition(CAPACITY_AVAILABLE, None, "NotNeeded", "No replica is to be placed now.")
    if waiting or (not health.pods and health.wanted):
        return Condition(CAPACITY_AVAILABLE, None, "NotScheduledYet", "The scheduler has not placed every replica yet.")
    return Condition(CAPACITY_AVAILABLE, True, "Placed", f"{_count(len(health.pods))} a node.")


def _numbers(health: Health) -> str:
    accelerator, room = health.model.resources.accelerator, health.room
    if accelerator is None:
        return ""
    needs = f"A replica needs {accelerator.count} {accelerator.resource}"
    if room is None:
        return f"{needs}. "
    free = f"{room.free} of {room.total} are free on {room.nodes} nodes, {room.largest_free_on_a_node} at most on one"
    return f"{needs}; {free}. "


def _way_out(health: Health) -> str:
    if health.model.resources.accelerator:
        return (
            "Add a node with free devices, free some elsewhere, or lower spec.resources.accelerator.count or replicas."
        )
    return "Add a node, lower spec.resources or spec.replicas, or check spec.placement."


def _autoscaling(health: Health) -> Condition:
    if health.autoscaling_reason is None:
        told = f"spec.autoscaling is not set: spec.replicas asks for {health.model.replicas}."
        return Condition(AUTOSCALING_ACTIVE, False, "NotConfigured", told)
    if health.asleep:
        return Condition(AUTOSCALING_ACTIVE, False, "Sleeping", "The model sleeps, so nothing is scaled.")
    if health.model.suspend:
        return Condition(AUTOSCALING_ACTIVE, False, "Suspended", "spec.suspend is true, so nothing is scaled.")
    told = f"{_sentence(health.autoscaling_reason)} spec.replicas is not used."
    return Condition(AUTOSCALING_ACTIVE, True, "Scaling", told)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."


def _part(some: int, whole: int) -> str:
    return f"{some} of {whole} {'replica is' if whole == 1 else 'replicas are'}"


def _count(number: int) -> str:
    return f"{number} replica has" if number == 1 else f"{number} replicas have"
