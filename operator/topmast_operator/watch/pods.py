"""A pod's JSON as facts: what scheduler and kubelet say of it, no judgement."""

from collections.abc import Mapping
from typing import Any

from topmast_operator.api.facts import EngineState, PodFacts, Termination
from topmast_operator.api.names import ANNOTATION_DRAINING, CONTAINER, LABEL_REVISION
from topmast_operator.api.times import to_unix

Body = Mapping[str, Any]


def read_pod(body: Body, engine: EngineState | None) -> PodFacts:
    """The facts of one pod, with what its engine said if it was asked."""
    meta, spec, status = body["metadata"], body["spec"], body.get("status", {})
    conditions = {item["type"]: item for item in status.get("conditions", ())}
    container = _container(status)
    state: Body = container.get("state", {})
    waiting = state.get("waiting", {})
    failed = status.get("phase") == "Failed"
    return PodFacts(
        name=meta["name"],
        revision=meta.get("labels", {}).get(LABEL_REVISION, ""),
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        deleting="deletionTimestamp" in meta,
        draining=meta.get("annotations", {}).get(ANNOTATION_DRAINING) == "true",
        scheduled=_scheduled(spec, conditions.get("PodScheduled")),
        unschedulable_message=conditions.get("PodScheduled", {}).get("message", ""),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        restarts=container.get("restartCount", 0),
        terminated=_termination(state.get("terminated")),
        last_terminated=_termination(container.get("lastState", {}).get("terminated")),
        created_unix_s=to_unix(meta["creationTimestamp"]),
        leaves_by_unix_s=to_unix(meta["deletionTimestamp"]) if "deletionTimestamp" in meta else None,
        engine=engine,
        gates=tuple(gate["name"] for gate in spec.get("schedulingGates", ())),
        ended_reason=status.get("reason", "") if failed else "",
        ended_message=status.get("message", "") if failed else "",
        scheduled_unix_s=_since(conditions.get("PodScheduled")),
        started_unix_s=_unix(state.get("running", {}).get("startedAt")),
        ready_unix_s=_since(conditions.get("Ready")),
    )


def _container(status: Body) -> Body:
    """The engine's container; of a pod without one, such as a check, its first."""
    statuses = status.get("containerStatuses", ())
    engine = next((item for item in statuses if item["name"] == CONTAINER), None)
    return engine or next(iter(statuses), {})


def _since(condition: Body | None) -> float | None:
    """Since when a condition is true."""
    if condition is None or condition["status"] != "True":
        return None
    return _unix(condition.get("lastTransitionTime"))


def _unix(text: str | None) -> float | None:
    return to_unix(text) if text else None


def _scheduled(spec: Body, condition: Body | None) -> bool | None:
    if spec.get("nodeName"):
        return True
    if condition is None:
        return None
    return False if condition["status"] == "False" and condition.get("reason") == "Unschedulable" else None


def _termination(body: Body | None) -> Termination | None:
    if not body:
        return None
    return Termination(body.get("exitCode", 0), body.get("reason", ""), body.get("message", ""))
