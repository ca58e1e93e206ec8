"""From facts to everything that one reconcile does: the whole policy of the operator, in the order in which it applies.

Pure: the same facts and the same defaults for engines give the same plan. A plan names only what has to change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topmast_operator.api.facts import Facts, PodFacts, RevisionFacts
from topmast_operator.api.resource import Model
from topmast_operator.plan import autoscale, failures, sleep
from topmast_operator.plan.failures import Kind, Problem
from topmast_operator.plan.health import Health
from topmast_operator.plan.notes import Note, notes_of
from topmast_operator.plan.revision import revision_of
from topmast_operator.plan.rollout import Revision, Rollout, Strategy, plan_rollout
from topmast_operator.plan.status import render_status
from topmast_operator.plan.victims import choose_victims
from topmast_operator.render import children
from topmast_operator.render.template import EngineDefaults, render_template


@dataclass(frozen=True)
class Plan:
    """Carried out in this order; every field holds only what differs from the cluster."""

    grow: tuple[children.Manifest, ...]  # new or larger Deployments first, then the Service and the budget
    drain: tuple[str, ...]  # pods to announce to the gateways
    undrain: tuple[str, ...]  # pods that were announced and stay after all
    shrink: tuple[children.Manifest, ...]  # a moment after the announcement
    delete: tuple[tuple[str, str], ...]  # kind and name
    status: Mapping[str, Any]
    notes: tuple[Note, ...]


def make_plan(facts: Facts, defaults: EngineDefaults) -> Plan:
    """What to do now for one model."""
    model, target_name = facts.model, revision_of(facts.model)
    known = {revision.revision: revision for revision in facts.revisions}
    target = known.get(target_name)
    template = target.template if target else render_template(model, target_name, defaults)
    rest = sleep.decide(facts)
    decision = _autoscale(facts, rest)
    wanted = _wanted(model, rest, decision)
    stalled = _stalled(facts, target, target_name)
    rollout = plan_rollout(
        wanted,
        _view(facts, target_name, target, template),
        [_view(facts, name, revision, revision.template) for name, revision in known.items() if name != target_name],
        blocked=stalled is not None,
        room_for_one=_room_for_one(facts),
    )
    deployments = _deployments(facts, known, target_name, template, rollout, stalled)
    shrink: list[children.Manifest] = []
    grow: list[children.Manifest] = []
    for name, manifest in deployments.items():
        smaller = name in known and manifest["spec"]["replicas"] < known[name].replicas
        (shrink if smaller else grow).append(manifest)
    drain, undrain = _announcements(facts, rollout)
    deletions = [("Deployment", known[name].name) for name in rollout.delete]
    extra, gone = _others(facts, wanted)
    health = _health(facts, target_name, wanted, rollout, stalled, decision, rest)
    status = render_status(health, facts, decision)
    return Plan(
        grow=(*grow, *extra),
        drain=drain,
        undrain=undrain,
        shrink=tuple(shrink),
        delete=(*deletions, *gone),
        status=status,
        notes=notes_of(model.status, status),
    )


def _wanted(model: Model, rest: sleep.Rest | None, decision: autoscale.Decision | None) -> int:
    """Replicas to run. A model that a request woke needs one, whatever spec.replicas says."""
    if model.suspend or (rest and rest.asleep):
        return 0
    wanted = decision.desired if decision else model.replicas
    return max(1, wanted) if rest else wanted


def _autoscale(facts: Facts, rest: sleep.Rest | None) -> autoscale.Decision | None:
    policy = facts.model.autoscaling
    if policy is None:
        return None
    running = sum(revision.replicas for revision in facts.revisions)
    memory = autoscale.remember(facts.model.status, policy, running)
    if facts.model.suspend:
        return autoscale.Decision(memory, "nothing is scaled while spec.suspend is true")
    if rest and rest.asleep:
        least = autoscale.Memory(policy.min_replicas, None, memory.last_change)
        return autoscale.Decision(least, "nothing is scaled while the model sleeps")
    return autoscale.decide(policy, memory, autoscale.measure(facts.pods), facts.now)


def _stalled(facts: Facts, target: RevisionFacts | None, revision: str) -> Problem | None:
    """Why the wanted revision is given up, if it is: recorded earlier, or seen often enough now."""
    if target and target.failed and target.failed.get("retry", "") == facts.model.retry:
        return Problem(Kind(target.failed["kind"]), target.failed["reason"], target.failed["message"], permanent=True)
    pods = facts.pods_of(revision)
    problem = failures.worst(pods)
    serving = any(pod.ready for pod in pods)
    # After another try was asked for, the old pods are gone; only new ones can be hopeless again.
    return problem if problem and problem.hopeless and not serving else None


def _view(facts: Facts, name: str, revision: RevisionFacts | None, template: Mapping[str, Any]) -> Revision:
    pods = facts.pods_of(name)
    ready = sum(pod.ready and not pod.draining for pod in pods)
    return Revision(
        name=name,
        replicas=revision.replicas if revision else 0,
        ready=ready,
        pods=sum(pod.revision == name and not pod.overdue(facts.now) for pod in facts.pods),
        proven=bool(revision and revision.proven) or ready > 0,
        created=revision.created_unix_s if revision else facts.now,
        unschedulable=any(pod.scheduled is False for pod in pods),
        template=template,
    )


def _room_for_one(facts: Facts) -> bool | None:
    accelerator = facts.model.resources.accelerator
    if accelerator is None or facts.room is None:
        return None
    return facts.room.largest_free_on_a_node >= accelerator.count


def _deployments(
    facts: Facts,
    known: Mapping[str, RevisionFacts],
    target: str,
    template: Mapping[str, Any],
    rollout: Rollout,
    stalled: Problem | None,
) -> dict[str, children.Manifest]:
    """The Deployments that must change, by revision, the wanted one first."""
    changed = {}
    for name in sorted(rollout.replicas, key=lambda name: name != target):
        if name in rollout.delete:
            continue
        live = known.get(name)
        manifest = children.deployment(
            facts.model,
            name,
            live.template if live else template,
            rollout.replicas[name],
            proven=bool(live and live.proven) or any(pod.ready for pod in facts.pods_of(name)),
            failed=_failure_record(facts, stalled) if name == target else (live.failed if live else None),
        )
        if live is None or children.live_differs(manifest, live.live) or _kept_too_long(manifest, live):
            changed[name] = manifest
    return changed


def _failure_record(facts: Facts, stalled: Problem | None) -> dict[str, str] | None:
    if stalled is None:
        return None
    return {
        "kind": str(stalled.kind),
        "reason": stalled.reason,
        "message": stalled.message,
        "retry": facts.model.retry,
    }


def _kept_too_long(manifest: children.Manifest, live: RevisionFacts) -> bool:
    """A record of failure that is no longer wanted: only another apply takes an annotation away."""
    return live.failed is not None and children.failure_of(manifest) is None


def _announcements(facts: Facts, rollout: Rollout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    drain: list[PodFacts] = []
    undrain: list[PodFacts] = []
    for name, replicas in rollout.replicas.items():
        pods = facts.pods_of(name)
        victims = choose_victims(pods, len(pods) - (0 if name in rollout.delete else replicas))
        drain += [pod for pod in victims if not pod.draining]
        undrain += [pod for pod in pods if pod.draining and pod not in victims]
    return tuple(pod.name for pod in drain), tuple(pod.name for pod in undrain)


def _others(facts: Facts, wanted: int) -> tuple[list[children.Manifest], list[tuple[str, str]]]:
    """The Service and the disruption budget, as far as they differ."""
    apply, delete = [], []
    if "Service" not in facts.foreign:
        service = children.service(facts.model)
        if facts.service is None or children.live_differs(service, facts.service):
            apply.append(service)
    if "PodDisruptionBudget" not in facts.foreign:
        budget = children.disruption_budget(facts.model)
        if wanted >= 2 and (facts.disruption_budget is None or children.live_differs(budget, facts.disruption_budget)):
            apply.append(budget)
        if wanted < 2 and facts.disruption_budget is not None:
            delete.append(("PodDisruptionBudget", facts.model.name))
    return apply, delete


def _health(
    facts: Facts,
    target: str,
    wanted: int,
    rollout: Rollout,
    stalled: Problem | None,
    decision: autoscale.Decision | None,
    rest: sleep.Rest | None,
) -> Health:
    pods = facts.pods_of(target)
    staying = [pod for pod in facts.pods if not pod.deleting]
    return Health(
        model=facts.model,
        revision=target,
        wanted=wanted,
        ready=sum(pod.ready and not pod.draining for pod in staying),
        ready_new=sum(pod.ready and not pod.draining for pod in pods),
        present=sum(not pod.overdue(facts.now) for pod in facts.pods),
        pods=pods,
        rollout=rollout,
        problem=_problem(facts, pods, rollout),
        stalled=stalled,
        blocker=_blocker(facts, target),
        room=facts.room,
        autoscaling_reason=decision.reason if decision else None,
        rest=rest,
    )


def _problem(facts: Facts, pods: tuple[PodFacts, ...], rollout: Rollout) -> Problem | None:
    """The problem to tell. That a new replica waits for the room of a leaving one is the plan, not a problem."""
    problem = failures.worst(pods)
    others = any(pod not in pods for pod in facts.pods)
    swapping = others and rollout.strategy in (Strategy.REPLACE, Strategy.RECREATE)
    return None if swapping and problem and problem.kind is Kind.CAPACITY else problem


def _blocker(facts: Facts, target: str) -> Problem | None:
    for kind in facts.foreign:
        message = (
            f"A {kind} named {facts.model.name} exists in namespace {facts.model.namespace} and is not Topmast's. "
            "Rename or delete it, or give the LLMDeployment another name."
        )
        return Problem(Kind.CONFIG, "NameTaken", message, permanent=True)
    for revision in facts.revisions:
        if revision.revision == target and revision.replica_failure:
            message = f"Kubernetes refuses to create pods: {revision.replica_failure}"
            return Problem(Kind.CAPACITY, "PodsRefused", message)
    return None
