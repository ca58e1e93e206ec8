"""When to look at a model again although nothing happened: time alone can change what is right for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topmast_operator.api.facts import Facts

UNSETTLED_S = 10.0  # deadlines, pods that are stuck, room that others leave
MEASURED_S = 10.0  # a model that may fall asleep, or shrink after a hold time
GIVEN_UP_S = 30.0


@dataclass(frozen=True)
class Attention:
    """again_s: seconds until the next look; None for a settled model, which events and the resync alone concern.
    waits: it may be waiting for room."""

    again_s: float | None = None
    waits: bool = False


def attention(facts: Facts, status: Mapping[str, Any]) -> Attention:
    """What a model asks for after a pass that left this status."""
    told = {item["type"]: item["status"] for item in status.get("conditions", ())}
    if told.get("Reconciling") == "True" or told.get("CapacityAvailable") == "False":
        return Attention(UNSETTLED_S, waits=True)
    if told.get("Ready") != "True":
        return Attention(GIVEN_UP_S, waits=True)
    asleep = status.get("sleep", {}).get("state") == "Asleep"
    measured = facts.model.autoscaling is not None or facts.model.sleep is not None
    return Attention(MEASURED_S) if measured and not asleep and facts.pods else Attention()
