"""Conditions by the rules of kstatus: few, stable, a sentence each, a transition time that only moves on a change.

`Reconciling` and `Stalled` are true when something is unusual, the others when all is well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topmast_operator.api.times import to_text

READY = "Ready"
AVAILABLE = "Available"  # somebody answers now
RECONCILING = "Reconciling"
STALLED = "Stalled"
MODEL_AVAILABLE = "ModelAvailable"
CAPACITY_AVAILABLE = "CapacityAvailable"
ACCELERATOR_USED = "AcceleratorUsed"
AUTOSCALING_ACTIVE = "AutoscalingActive"
ACCESS_RESOLVED = "AccessResolved"  # every alias leads to the model, every fallback is there


@dataclass(frozen=True)
class Condition:
    type: str
    status: bool | None  # None is Unknown
    reason: str
    message: str


def render(
    wanted: Iterable[Condition], previous: Sequence[Mapping[str, Any]], generation: int, now: float
) -> list[dict[str, Any]]:
    """The conditions for a status. A condition whose status stays keeps its lastTransitionTime."""
    before = {item["type"]: item for item in previous}
    rendered = []
    for condition in wanted:
        status = {True: "True", False: "False", None: "Unknown"}[condition.status]
        old = before.get(condition.type, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        rendered.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": since or to_text(now),
                "observedGeneration": generation,
            }
        )
    return rendered
