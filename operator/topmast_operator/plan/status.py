"""The whole status of a model, as it is applied; the operator's memory across restarts is in it too.

`observedGeneration` is in the same write as everything else, so a reader never sees it ahead of the conditions.
"""

from collections.abc import Mapping
from typing import Any

from topmast_operator.api.conditions import render
from topmast_operator.api.facts import Facts, RevisionFacts
from topmast_operator.api.names import model_selector
from topmast_operator.api.times import to_text
from topmast_operator.plan.autoscale import ScaleDecision
from topmast_operator.plan.conditions import conditions, phase
from topmast_operator.plan.health import Health
from topmast_operator.plan.overruled import render as render_overruled
from topmast_operator.plan.progress import describe, notable
from topmast_operator.plan.rollout_state import render as render_rollout
from topmast_operator.plan.sleep import render as render_sleep
from topmast_operator.plan.starts import finished_rollout, measured_starts
from topmast_operator.plan.weights import measured_weights

STRAYS = 20

# Sorts pods and revisions, so that equal facts give equal status.


def render_status(health: Health, facts: Facts, decision: ScaleDecision | None) -> dict[str, Any]:
    """The status for these facts."""
    model = facts.model
    staying = [pod for pod in facts.pods if not pod.deleting and not pod.ended]
    status: dict[str, Any] = {
        "phase": phase(health),
        "ready": f"{health.ready}/{health.wanted}",
        "revision": health.revision,
        "tokensPerSecond": _rounded(sum(pod.engine.output_tokens_per_s for pod in staying if pod.engine)),
        "replicas": len(staying),
        "readyReplicas": health.ready,
        "selector": model_selector(model.name),
        "revisions": [
            _revision(facts, health, revision)
            for revision in sorted(facts.revisions, key=lambda item: (item.created_unix_s, item.revision))
        ],
        "pods": [describe(pod) for pod in notable(facts.pods)],
        "conditions": render(conditions(health), model.status.get("conditions", ()), model.generation, facts.now),
        "observedGeneration": model.generation,
    }
    rollout = render_rollout(health.rollout)
    if rollout:
        status["rollout"] = rollout
    if last := finished_rollout(model.status, health.ready, facts.now):
        status["lastRollout"] = last
    if weights := measured_weights(facts):
        status["model"] = weights
    if facts.strays:
        status["strays"] = sorted(facts.strays)[:STRAYS]
    if decision:
        status["autoscaling"] = _autoscaling(decision) | render_overruled(model, health.overruled)
    if health.sleep:
        status["sleep"] = render_sleep(health.sleep)
    if start := measured_starts(model.status, facts.pods):
        status["start"] = start
    return status


def without_cosmetics(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without what changes with every measurement: such a change alone can wait some seconds."""
    kept = {key: value for key, value in status.items() if key != "tokensPerSecond"}
    if "autoscaling" in kept:
        kept["autoscaling"] = {key: value for key, value in kept["autoscaling"].items() if key != "reason"}
    kept["conditions"] = [
        {key: value for key, value in item.items() if key != "message" or item["type"] != "AutoscalingActive"}
        for item in status.get("conditions", ())
    ]
    return kept


def proven_by(status: Mapping[str, Any]) -> frozenset[str]:
    """The Deployments whose revisions a status calls proven: nothing else has to remember them."""
    return frozenset(item["deployment"] for item in status.get("revisions", ()) if item.get("verdict") == "Proven")


def _revision(facts: Facts, health: Health, revision: RevisionFacts) -> dict[str, Any]:
    pods = facts.pods_of(revision.revision)
    ready = sum(pod.ready for pod in pods)
    shown: dict[str, Any] = {
        "name": revision.revision,
        "deployment": revision.name,
        "replicas": len(pods),
        "readyReplicas": ready,
        "verdict": "Proven" if revision.proven or ready else "Starting",
    }
    if revision.revision == health.revision and health.stalled:
        shown["message"] = health.stalled.message
        if shown["verdict"] != "Proven":  # once is for ever: this is where it is remembered
            shown["verdict"] = "Failed"
    return shown


def _autoscaling(decision: ScaleDecision) -> dict[str, Any]:
    memory = decision.memory
    shown: dict[str, Any] = {"desiredReplicas": memory.desired, "reason": decision.reason}
    if memory.last_change is not None:
        shown["lastScaleTime"] = to_text(memory.last_change)
    if memory.low_since is not None:
        shown["lowSince"] = to_text(memory.low_since)
    return shown


def _rounded(rate: float) -> str:
    """Two digits, so that a steady load reads as a steady number."""
    if rate < 1:
        return "0"
    if rate < 100:
        return f"{rate:.0f}"
    return f"{float(f'{rate:.2g}'):.0f}"
