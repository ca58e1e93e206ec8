"""Who else scales a model that spec.autoscaling scales: a HorizontalPodAutoscaler, KEDA, a person with kubectl scale.

Each writes spec.replicas through the scale subresource, which is theirs and which nobody reads meanwhile. The API
server keeps who wrote last for ever and not when, so a write is noticed by the number that changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topmast_operator.api.resource import Model
from topmast_operator.api.times import to_text, to_unix

TOLD_FOR_S = 3600.0  # a scaler that is at work writes again; one that was removed does not


@dataclass(frozen=True)
class Overruled:
    """A write of spec.replicas, by the manager's name in the API server's books. `at` is in Unix seconds."""

    manager: str
    replicas: int
    at: float

    @property
    def by_hand(self) -> bool:
        return self.manager.startswith("kubectl")


def overruled(model: Model, now: float) -> Overruled | None:
    """The latest such write of the last hour."""
    status: Mapping[str, Any] = model.status.get("autoscaling", {})
    seen, before = status.get("specReplicas"), status.get("overruled")
    if model.autoscaling is None or seen is None:
        return None  # what was written before spec.autoscaling was there is no conflict
    if seen != model.replicas:
        return Overruled(model.scaled_by, model.replicas, now) if model.scaled_by else None
    if before is None or now - to_unix(before["at"]) > TOLD_FOR_S:
        return None
    return Overruled(before["manager"], before["replicas"], to_unix(before["at"]))


def render(model: Model, write: Overruled | None) -> dict[str, Any]:
    """What `status.autoscaling` keeps for the next pass."""
    kept: dict[str, Any] = {"specReplicas": model.replicas}
    if write:
        kept["overruled"] = {"manager": write.manager, "replicas": write.replicas, "at": to_text(write.at)}
    return kept
