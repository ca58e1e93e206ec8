"""Facts by hand for the tests of plans: a model, its revisions and pods, in as few words as possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from topmast_operator.api.facts import EngineState, Facts, PodFacts, RevisionFacts
from topmast_operator.api.resource import Model, parse
from topmast_operator.plan.plan import Plan, make_plan
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import children
from topmast_operator.render.changes import Changes, changes, target_template
from topmast_operator.render.template import EngineDefaults, render_template

NOW = 1_800_000_000.0
DEFAULTS = EngineDefaults("topmast/server:1")
ROLLOUT = {
    "strategy": "Auto",
    "surgeWaitSeconds": 0,
    "progressDeadlineSeconds": 600,
    "revisionHistoryLimit": 0,
    "paused": False,
}


def body(**spec: Any) -> dict[str, Any]:
    """An LLMDeployment as the API server stores it: with the schema's defaults."""
    stored: dict[str, Any] = {
        "model": {"source": "image:///models/m.gguf"},
        "engine": {},
        "resources": {},
        "placement": {},
        "replicas": 1,
        "suspend": False,
        "drain": {},
        "rollout": {},
        **spec,
    }
    stored["rollout"] = {**ROLLOUT, **stored["rollout"]}
    stored["engine"] = {"dtype": "auto", **stored["engine"]}
    stored["drain"] = {"timeoutSeconds": 30, **stored["drain"]}
    if accelerator := stored["resources"].get("accelerator"):
        accelerator.setdefault("resource", "nvidia.com/gpu")
    if scaling := stored.get("autoscaling"):
        defaults = {"minReplicas": 1, "scaleDownHoldSeconds": 300, "targetUtilization": 0.65}
        stored["autoscaling"] = {**defaults, **scaling}
    if "sleep" in stored:
        stored["sleep"] = {"idleSeconds": 600, **stored["sleep"]}
    metadata = {"name": "m", "namespace": "ns", "uid": "u", "generation": 1, "annotations": {}}
    return {"metadata": metadata, "spec": stored}


def model(status: dict[str, Any] | None = None, retry: str = "", **spec: Any) -> Model:
    return replace(parse(body(**spec)), status=status or {"observedGeneration": -1}, retry=retry)


def revision(of: Model, replicas: int, *, age_s: float = 100, proven: bool = True, **more: Any) -> RevisionFacts:
    """The Deployment that the operator made for this model's spec, as it is stored."""
    name = revision_of(of)
    template = render_template(of, name, DEFAULTS)
    live = children.deployment(of, name, template, replicas, proven=proven, failed=more.get("failed"))
    facts = RevisionFacts(f"m-{name}", name, NOW - age_s, replicas, template, proven, None, "", live)
    return replace(facts, **more)


def pod(of: Model, number: int = 0, *, ready: bool = True, **more: Any) -> PodFacts:
    facts = PodFacts(
        name=f"m-{revision_of(of)}-{number}",
        revision=revision_of(of),
        node="n1",
        ip="10.0.0.1",
        phase="Running",
        ready=ready,
        deleting=False,
        draining=False,
        scheduled=True,
        unschedulable_message="",
        waiting_reason="",
        waiting_message="",
        restarts=0,
        terminated=None,
        last_terminated=None,
        created_unix_s=NOW - 50,
        scheduled_unix_s=NOW - 50,
        started_unix_s=NOW - 40,
        ready_unix_s=NOW - 30 if ready else None,
    )
    return replace(facts, **more)


def engine(**numbers: Any) -> EngineState:
    """An idle, healthy engine, with other numbers where given."""
    idle = EngineState("ready", kv_tokens=1000, prefill_tokens_per_s=1000.0, decode_tokens_per_s=100.0, age_s=1.0)
    return replace(idle, **numbers)


def settled(of: Model, replicas: int) -> Facts:
    """A model that is as its spec asks, children and all, with a status that says so."""
    facts = Facts(
        of,
        NOW,
        revisions=(revision(of, replicas),),
        pods=tuple(pod(of, number) for number in range(replicas)),
        service=children.service(of),
        disruption_budget=children.disruption_budget(of) if replicas >= 2 else None,
    )
    return replace(facts, model=replace(of, status=plan(facts).status))


@dataclass(frozen=True)
class Made:
    """A plan and what of it differs from the cluster: what one pass does."""

    plan: Plan
    changes: Changes

    @property
    def status(self) -> Mapping[str, Any]:
        return self.plan.status


def plan(facts: Facts) -> Made:
    template = target_template(facts, revision_of(facts.model), DEFAULTS)
    made = make_plan(facts, template)
    return Made(made, changes(facts, made, template))


def replicas(made: Made) -> dict[str, int]:
    """What a plan sets, by Deployment name."""
    return {
        item["metadata"]["name"]: item["spec"]["replicas"]
        for item in (*made.changes.grow, *made.changes.shrink)
        if item["kind"] == "Deployment"
    }


def checks(made: Made) -> list[str]:
    """The check pods that a plan makes."""
    return [item["metadata"]["name"] for item in made.changes.grow if item["kind"] == "Pod"]


def condition(made: Made, kind: str) -> dict[str, Any]:
    (found,) = [item for item in made.status["conditions"] if item["type"] == kind]
    return dict(found)
