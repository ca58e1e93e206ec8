"""From facts to everything that one pass does: the whole policy of the operator, in the order in which it applies.

Pure: the same facts and the same template of the wanted revision give the same plan. Manifests are rendered elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topmast_operator.api.facts import Facts, PodFacts
from topmast_operator.api.names import access_name, policy_name
from topmast_operator.plan import check, failure
from topmast_operator.plan.access import access_resolved
from topmast_operator.plan.decision import Decision, decide, has_served, patience_of
from topmast_operator.plan.events import Event, events_of
from topmast_operator.plan.findings import Finding, Kind, Severity, refused_pods, refused_write, worst
from topmast_operator.plan.health import Health
from topmast_operator.plan.overruled import overruled
from topmast_operator.plan.revision import revision_of
from topmast_operator.plan.rollout_state import How, Phase, Rollout
from topmast_operator.plan.status import render_status
from topmast_operator.plan.victims import choose_victims

UNSETTLED_S = 10.0  # deadlines pass without an event: what is under way is looked at this often
STALLED_S = 60.0  # an event tells when it is mended; this is for one that was lost
KEPT_FAILED_PODS = 3


@dataclass(frozen=True)
class Plan:
    """What the cluster should look like, and what to tell. What of it differs from the cluster is found by `render`."""

    revision: str  # that the spec asks for
    replicas: Mapping[str, int]  # of every revision that stays
    proven: frozenset[str]
    failed: Mapping[str, Mapping[str, str]]  # records of failure, by revision
    drain: tuple[str, ...]  # pods to announce to the gateways
    undrain: tuple[str, ...]  # pods that were announced and stay after all
    delete: tuple[tuple[str, str], ...]  # kind and name
    service: bool
    budget: bool
    check: str | None  # the revision that a check pod should prove
    status: Mapping[str, Any]
    events: tuple[Event, ...]
    again_s: float | None  # look again after so long, whatever happens; None: an event will tell
    waits: bool  # it may be waiting for room: what comes free elsewhere concerns it


def make_plan(facts: Facts, template: Mapping[str, Any]) -> Plan:
    """What to do now for one model. `template` is the pod template of the revision that the spec asks for."""
    model, target = facts.model, revision_of(facts.model)
    decided = decide(facts, target, template)
    rolled = decided.rollout
    drain, undrain = _announcements(facts, rolled, decided.situation.check_node)
    check_revision = target if rolled.check else None
    health = _health(facts, target, decided)
    status = render_status(health, facts, decided.autoscaling)
    names = {item.revision: item.name for item in facts.revisions}
    deletions = [("Deployment", names[name]) for name in rolled.delete]
    return Plan(
        revision=target,
        replicas={name: count for name, count in rolled.replicas.items() if name not in rolled.delete},
        proven=frozenset(item.revision for item in facts.revisions if item.proven or has_served(facts, item.revision)),
        failed=failure.records(facts, target, decided.failed),
        drain=drain,
        undrain=undrain,
        delete=(*deletions, *_ended_pods(facts), *_drained_by_others(facts), *check.superfluous(facts, check_revision)),
        service="Service" not in (*facts.foreign, *facts.leftover),
        budget=decided.wanted >= 2 and "PodDisruptionBudget" not in (*facts.foreign, *facts.leftover),
        check=check_revision,
        status=status,
        events=events_of(model.status, status),
        again_s=_again_s(health, decided),
        waits=not health.settled or any(pod.scheduled is False for pod in facts.pods),
    )


def _announcements(facts: Facts, rolled: Rollout, check_node: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    drain: list[PodFacts] = []
    undrain: list[PodFacts] = []
    for name, replicas in rolled.replicas.items():
        pods = facts.pods_of(name)
        makes_way = check_node if rolled.phase is Phase.SWAPPING else None
        victims = choose_victims(pods, len(pods) - (0 if name in rolled.delete else replicas), makes_way)
        drain += [pod for pod in victims if not pod.draining]
        undrain += [pod for pod in pods if pod.draining and pod not in victims]
    return tuple(pod.name for pod in drain), tuple(pod.name for pod in undrain)


def _ended_pods(facts: Facts) -> list[tuple[str, str]]:
    """Pods that failed as a whole stay as evidence, and pile up: the latest few are enough."""
    ended = sorted((pod for pod in facts.pods if pod.ended and not pod.deleting), key=lambda pod: -pod.created_unix_s)
    return [("Pod", pod.name) for pod in ended[KEPT_FAILED_PODS:]]


def _drained_by_others(facts: Facts) -> list[tuple[str, str]]:
    """Pods whose engine was told to drain by somebody else: they will never serve again. Work ends first."""
    return [
        ("Pod", pod.name)
        for pod in facts.pods
        if not pod.deleting
        and not pod.draining
        and not pod.ready
        and pod.engine is not None
        and pod.engine.phase == "draining"
        and not pod.engine.running
        and not pod.engine.waiting
    ]


def _health(facts: Facts, target: str, decided: Decision) -> Health:
    pods = facts.pods_of(target)
    staying = [pod for pod in facts.pods if not pod.deleting and not pod.ended]
    return Health(
        model=facts.model,
        revision=target,
        wanted=decided.wanted,
        ready=sum(pod.ready and not pod.draining for pod in staying),
        ready_new=sum(pod.ready and not pod.draining for pod in pods),
        present=sum(not pod.overdue(facts.now) and not pod.ended for pod in facts.pods),
        pods=pods,
        rollout=decided.rollout,
        finding=_finding_to_tell(facts, target, decided),
        given_up=decided.failed is not None,
        room=facts.room,
        autoscaling_reason=decided.autoscaling.reason if decided.autoscaling else None,
        overruled=overruled(facts.model, facts.now),
        sleep=decided.sleeping,
        access_resolved=access_resolved(facts.model, facts.namesakes, facts.fallbacks),
    )


def _finding_to_tell(facts: Facts, target: str, decided: Decision) -> Finding | None:
    """The one finding to tell. That a new replica waits for the room of a leaving one is the plan, and none."""
    rolled = decided.rollout
    candidates = [decided.failed.finding if decided.failed else None, *_blockers(facts, target, rolled)]
    candidates.append(rolled.refusal.finding if rolled.refusal else None)
    candidates += decided.situation.findings
    if rolled.how not in (How.REPLACE, How.RECREATE):
        proven = any(item.revision == target and item.proven for item in facts.revisions)
        candidates.append(worst(facts.pods_of(target), patience_of(facts, proven)))
    if not facts.pods_of(target):
        candidates.append(worst([pod for pod in facts.pods if pod.ended], patience_of(facts, proven=True)))
    found = [item for item in candidates if item]
    return max(found, key=lambda item: (item.severity, item.permanent), default=None)


def _blockers(facts: Facts, target: str, rolled: Rollout) -> list[Finding]:
    """What is wrong apart from pods."""

    def where(kind: str) -> str:
        name = {"ConfigMap": access_name, "NetworkPolicy": policy_name}.get(kind, str)(facts.model.name)
        return f"A {kind} named {name} exists in namespace {facts.model.namespace}"

    found = [
        Finding(
            Kind.CONFIG,
            "NameTaken",
            f"{where(kind)} and is not Topmast's. Rename or delete it, or give the LLMDeployment another name.",
            Severity.FINAL,
        )
        for kind in facts.foreign
    ]
    found += [
        Finding(
            Kind.CONFIG,
            "PredecessorLeaving",
            f"{where(kind)} and belongs to an earlier LLMDeployment of this name, which Kubernetes is "
            "deleting: it is made anew when that one is gone.",
        )
        for kind in facts.leftover
    ]
    if facts.refused:
        found.append(refused_write(facts.refused))
    for revision in facts.revisions:
        if revision.revision == target and revision.replica_failure and rolled.replicas.get(target):
            found.append(refused_pods(revision.replica_failure))
    return found


def _again_s(health: Health, decided: Decision) -> float | None:
    """The announced step follows at once; what is under way, or counts down, is looked at now and then."""
    if decided.rollout.phase is Phase.ANNOUNCED:
        return 0.0
    if health.stalled:
        return STALLED_S
    if not health.settled or decided.autoscaling is not None:
        return UNSETTLED_S
    if health.model.sleep and not health.asleep:
        return max(UNSETTLED_S, health.model.sleep.idle_s / 10)
    return None
