"""How many replicas a model should have and of which revision: everything of a plan but its words.

Sleep first, then the number, then the share of every revision. Pure, as all of `plan`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topmast_operator.api.facts import Facts, PodFacts, RevisionFacts
from topmast_operator.api.resource import Model
from topmast_operator.plan import autoscale, check, failure, load, sleep
from topmast_operator.plan.findings import Finding, Kind, Patience, diagnose, worst
from topmast_operator.plan.give_way import Amounts, Strategy
from topmast_operator.plan.rollout import plan_rollout
from topmast_operator.plan.rollout_state import RevisionView, Rollout, Situation, remember
from topmast_operator.plan.starts import expected_gap_s


@dataclass(frozen=True)
class Decision:
    """What was decided about replicas, and from what: everything of a plan but its words."""

    wanted: int
    situation: Situation
    rollout: Rollout
    failed: failure.Failure | None
    autoscaling: autoscale.ScaleDecision | None
    sleeping: sleep.SleepState | None


def decide(facts: Facts, target_name: str, template: Mapping[str, Any]) -> Decision:
    """Sleep, then the number of replicas, then which revision has how many of them."""
    model = facts.model
    known = {item.revision: item for item in facts.revisions}
    target = known.get(target_name)
    sleeping = sleep.decide(facts)
    scaling = _autoscale(facts, sleeping)
    wanted = _wanted(model, sleeping, scaling)
    checked = check.judge(facts, target_name)
    failed = failure.of_target(facts, target, target_name, wanted, checked)
    situation = Situation(
        wanted=wanted,
        target=_view(facts, target_name, target, template),
        others=[_view(facts, name, item, item.template) for name, item in known.items() if name != target_name],
        strategy=Strategy(model.rollout.strategy),
        now=facts.now,
        paused=model.rollout.paused,
        surge_wait_s=model.rollout.surge_wait_s,
        history=model.rollout.history,
        memory=remember(model.status),
        failed=failed.finding if failed else None,
        findings=_hindrances(facts, target, target_name, checked),
        checked=checked.passed,
        check_node=checked.node,
        room_for_one=_room_for_one(facts),
        quotas=facts.quotas,
        pods_refused=_refused_pods(facts, target),
        expected_gap_s=expected_gap_s(model, facts.pods),
    )
    return Decision(wanted, situation, plan_rollout(situation), failed, scaling, sleeping)


def _wanted(model: Model, sleeping: sleep.SleepState | None, decision: autoscale.ScaleDecision | None) -> int:
    """Replicas to run. A model that a request woke needs one, whatever spec.replicas says."""
    if model.suspend or (sleeping and sleeping.asleep):
        return 0
    wanted = decision.desired if decision else model.replicas
    return max(1, wanted) if sleeping else wanted


def _autoscale(facts: Facts, sleeping: sleep.SleepState | None) -> autoscale.ScaleDecision | None:
    policy = facts.model.autoscaling
    if policy is None:
        return None
    running = sum(revision.replicas for revision in facts.revisions)
    memory = autoscale.remember(facts.model.status, policy, running)
    if facts.model.suspend:
        return autoscale.ScaleDecision(memory, "nothing is scaled while spec.suspend is true")
    if sleeping and sleeping.asleep:
        least = autoscale.ScaleMemory(policy.min_replicas, None, memory.last_change)
        return autoscale.ScaleDecision(least, "nothing is scaled while the model sleeps")
    return autoscale.decide(policy, memory, load.measure(facts), facts.now)


def patience_of(facts: Facts, proven: bool) -> Patience:
    return Patience(facts.now, proven, facts.model.rollout.progress_deadline_s)


def has_served(facts: Facts, revision: str) -> bool:
    return any(pod.ready for pod in facts.pods_of(revision))


def _view(facts: Facts, name: str, revision: RevisionFacts | None, template: Mapping[str, Any]) -> RevisionView:
    pods = facts.pods_of(name)
    proven = bool(revision and revision.proven) or has_served(facts, name)
    patience = patience_of(facts, proven)
    return RevisionView(
        name=name,
        replicas=revision.replicas if revision else 0,
        ready=sum(pod.ready and not pod.draining for pod in pods),
        placed=sum(pod.node is not None for pod in pods),
        pods=sum(pod.revision == name and not pod.overdue(facts.now) and not pod.ended for pod in facts.pods),
        proven=proven,
        created=revision.created_unix_s if revision else facts.now,
        crowded=any(_is_crowded(facts, pod, patience) for pod in pods),
        amounts=Amounts.of(template),
    )


def _is_crowded(facts: Facts, pod: PodFacts, patience: Patience) -> bool:
    """It waits for what a leaving replica would free: its room, or a volume that one node has at a time."""
    found = worst([pod], patience)
    if found is None or found.reason == "SchedulingGated":
        return False
    if found.reason == "ClaimInUse":
        return facts.claim is not None and facts.claim.one_node
    return found.kind is Kind.CAPACITY and pod.scheduled is False


def _hindrances(
    facts: Facts, target: RevisionFacts | None, name: str, checked: check.CheckResult
) -> tuple[Finding, ...]:
    """What keeps the wanted revision from starting. That a pod waits for room is left out: see `crowded`."""
    patience = patience_of(facts, bool(target and target.proven) or has_served(facts, name))
    pods = [pod for pod in facts.pods_of(name) if not _is_crowded(facts, pod, patience)]
    found = [checked.finding, *(diagnose(pod, patience) for pod in pods)]
    return tuple(item for item in found if item)


def _refused_pods(facts: Facts, target: RevisionFacts | None) -> str:
    """Why the API server takes no pods of the wanted revision: its replicas, or the check pod of this very pass."""
    if target and target.replica_failure:
        return target.replica_failure
    return facts.refused.message if facts.refused and 400 <= facts.refused.status < 500 else ""


def _room_for_one(facts: Facts) -> bool | None:
    accelerator = facts.model.resources.accelerator
    if accelerator is None or facts.room is None:
        return None
    return facts.room.largest_free_on_a_node >= accelerator.count
