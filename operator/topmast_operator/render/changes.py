"""What of a plan differs from the cluster, as manifests: the only place that compares what is wanted and what is."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from topmast_operator.api.facts import Facts, RevisionFacts
from topmast_operator.api.names import ANNOTATION_PROVEN
from topmast_operator.plan.plan import Plan
from topmast_operator.plan.status import proven_by
from topmast_operator.render import access, children
from topmast_operator.render.access import Doors
from topmast_operator.render.check import check_pod
from topmast_operator.render.children import Manifest
from topmast_operator.render.template import EngineDefaults, render_template

NO_DOORS = Doors()


@dataclass(frozen=True)
class Changes:
    """Carried out in this order: what leaves makes room before anything is made that needs it."""

    undrain: tuple[str, ...]  # pods that stay after all
    drain: tuple[str, ...]  # pods to announce to the gateways
    shrink: tuple[Manifest, ...]  # a moment after the announcement
    delete: tuple[tuple[str, str, str], ...]  # kind, name, and uid where it is known: only that very object
    grow: tuple[Manifest, ...]  # what new pods mount, new or larger Deployments, then the other children
    refresh: tuple[str, ...] = ()  # pods whose access file has changed under them
    access: str = ""  # a digest of that file

    @property
    def takes_away(self) -> bool:
        """Whether something that may serve goes: then facts are read anew before."""
        return bool(self.drain or self.shrink or self.delete)


def target_template(facts: Facts, revision: str, defaults: EngineDefaults) -> Mapping[str, Any]:
    """The pod template of the revision that the spec asks for: the pinned one where there is one."""
    for known in facts.revisions:
        if known.revision == revision:
            return known.template
    return render_template(facts.model, revision, defaults)


def changes(facts: Facts, plan: Plan, template: Mapping[str, Any], doors: Doors = NO_DOORS) -> Changes:
    """The manifests that must be applied and the names that must go. `template` is the wanted revision's."""
    known = {item.revision: item for item in facts.revisions}
    mounted = _mounted(facts, template, doors)
    grow = list(mounted)
    shrink: list[Manifest] = []
    told = proven_by(plan.status)
    for name in sorted(plan.replicas, key=lambda name: name != plan.revision):
        live = known.get(name)
        manifest = children.deployment(
            facts.model,
            name,
            live.template if live else template,
            plan.replicas[name],
            proven=name in plan.proven,
            failed=plan.failed.get(name),
        )
        if live is None or _differs(manifest, live, told) or _kept_too_long(manifest, live):
            if live is not None and plan.replicas[name] < live.replicas:
                # Refused when it is another one by now: what takes away is decided again then.
                manifest["metadata"]["resourceVersion"] = live.live["metadata"].get("resourceVersion")
                shrink.append(manifest)
            else:
                grow.append(manifest)
    others, gone = _others(facts, plan)
    others += _policy(facts, doors)
    if plan.check and (facts.check is None or facts.check.revision != plan.check):
        others.append(check_pod(facts.model, plan.check, template))
    uids = {("Deployment", item.name): item.live["metadata"].get("uid", "") for item in facts.revisions}
    delete = tuple((kind, name, uids.get((kind, name), "")) for kind, name in (*plan.delete, *gone))
    made = Changes(plan.undrain, plan.drain, tuple(shrink), delete, (*grow, *others))
    if not mounted or facts.access is None:
        return made
    running = tuple(pod.name for pod in facts.pods if pod.node and not pod.deleting and not pod.ended)
    return replace(made, refresh=running, access=access.digest(mounted[0]))


def _mounted(facts: Facts, template: Mapping[str, Any], doors: Doors) -> list[Manifest]:
    """The access file, where the pods of a revision need one: those that run, or those that are to come."""
    needed = any(access.is_closed(item) for item in (template, *(known.template for known in facts.revisions)))
    if doors.access is None or not needed or _is_others(facts, "ConfigMap"):
        return []
    wanted = access.config_map(facts.model, doors.access)
    return [wanted] if facts.access is None or children.live_differs(wanted, facts.access) else []


def _others(facts: Facts, plan: Plan) -> tuple[list[Manifest], list[tuple[str, str]]]:
    """The Service and the disruption budget, as far as they differ."""
    wanted: list[Manifest] = []
    gone: list[tuple[str, str]] = []
    if plan.service:
        service = children.service(facts.model)
        if facts.service is None or children.live_differs(service, facts.service):
            wanted.append(service)
    if plan.budget:
        budget = children.disruption_budget(facts.model)
        if facts.disruption_budget is None or children.live_differs(budget, facts.disruption_budget):
            wanted.append(budget)
    elif facts.disruption_budget is not None and not _is_others(facts, "PodDisruptionBudget"):
        gone.append(("PodDisruptionBudget", facts.model.name))
    return wanted, gone


def _policy(facts: Facts, doors: Doors) -> list[Manifest]:
    """Where there shall be none, one that is there lets everybody in: no right to delete any is needed."""
    live = facts.network_policy
    if _is_others(facts, "NetworkPolicy") or (doors.ingress is None and live is None):
        return []
    wanted = access.network_policy(facts.model, [{}] if doors.ingress is None else doors.ingress)
    return [wanted] if live is None or children.live_differs(wanted, live) else []


def _is_others(facts: Facts, kind: str) -> bool:
    return kind in facts.foreign or kind in facts.leftover


def _differs(manifest: Manifest, live: RevisionFacts, told: Collection[str]) -> bool:
    """A mark that the status has as well goes with the next write: for each one by itself Kubernetes' controllers write
    the Deployment and its ReplicaSet again."""
    if live.name in told:
        annotations = {**manifest["metadata"]["annotations"]}
        annotations.pop(ANNOTATION_PROVEN, None)
        manifest = {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}
    return children.live_differs(manifest, live.live)


def _kept_too_long(manifest: Manifest, live: RevisionFacts) -> bool:
    """A record of failure that is no longer wanted: only another apply takes an annotation away."""
    return live.failed is not None and children.failure_of(manifest) is None
