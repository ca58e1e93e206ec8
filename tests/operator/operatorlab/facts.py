"""Facts by hand for the tests of plans: a model, its revisions and pods, in as few words as possible."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from topmast_operator.api.facts import EngineState, Facts, PodFacts, RevisionFacts
from topmast_operator.api.resource import Model, parse
from topmast_operator.plan.plan import Plan, make_plan
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import children
from topmast_operator.render.template import EngineDefaults, render_template

NOW = 1_800_000_000.0
DEFAULTS = EngineDefaults("topmast/server:1")


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
        **spec,
    }
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


def plan(facts: Facts) -> Plan:
    return make_plan(facts, DEFAULTS)


def replicas(made: Plan) -> dict[str, int]:
    """What a plan sets, by Deployment name."""
    return {
        item["metadata"]["name"]: item["spec"]["replicas"]
        for item in (*made.grow, *made.shrink)
        if item["kind"] == "Deployment"
    }


def condition(made: Plan, kind: str) -> dict[str, Any]:
    (found,) = [item for item in made.status["conditions"] if item["type"] == kind]
    return dict(found)
