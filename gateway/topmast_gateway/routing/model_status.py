"""What a model without a ready pod is doing, and when it should be ready: parsed from its status, shown to its clients.

Pure values. A status never changes by itself: times that run are computed by whoever asks, from a clock it gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

# In the order of a start. Only the first one to be ready matters to somebody who waits.
_WORDS = {"Unschedulable": "waiting for a node", "Starting": "starting", "Loading": "loading weights"}
_WORDS |= {"Warming up": "warming up"}
_ORDER = list(_WORDS.values())
_MOST_PODS = 1000  # are looked at for the first one to be ready; an object has room for half a million
_LARGEST = 2**31  # the CRD's numbers are below


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """`left_s` is what the engine says of its loading; `due` is the Unix time by which such wakes were mostly done.

    `asleep`: nothing starts yet, and a wake usually takes `usual_s`. `stalled`: nothing will start before a human acts.
    """

    phase: str = ""
    percent: int | None = None
    left_s: float | None = None
    due: float | None = None
    usual_s: float | None = None
    asleep: bool = False
    stalled: bool = False

    def eta_s(self, now: float | None = None) -> float | None:
        """Seconds until the model should be ready; None when nobody knows, or when it takes longer than usual."""
        if self.asleep:
            return self.usual_s
        passed = time.time() if now is None else now
        known = [self.left_s or 0.0, self.due - passed if self.due else 0.0]
        return max(known) if max(known) > 0 else None

    def text(self, now: float | None = None) -> str:
        """One line for a client: `loading weights, 62 %, about 18 s`."""
        percent = "" if self.percent is None else f"{self.percent} %"
        eta_s = self.eta_s(now)
        left = "" if eta_s is None else f"about {math.ceil(eta_s)} s"
        return ", ".join(part for part in (self.phase or "no replica is ready", percent, left) if part)


UNKNOWN_STATUS = ModelStatus()


def model_status(status: Mapping[str, Any]) -> ModelStatus:
    """From an LLMDeployment's status. What is missing there is missing here."""
    sleep: Mapping[str, Any] = status.get("sleep") or {}
    usual_s = _number((status.get("start") or {}).get("p90Seconds"))
    if sleep.get("state") == "Asleep":
        return ModelStatus("asleep", usual_s=usual_s, asleep=True)
    waking = sleep.get("state") == "Waking"
    began = _unix(sleep.get("since")) if waking else None
    due = began + usual_s if began and usual_s else None
    listed = islice(status.get("pods") or (), _MOST_PODS)
    pods = [pod for pod in listed if pod.get("phase") not in ("Draining", "Ready")]
    first = max(pods, key=_nearness, default=None)
    if first is None and _is_stalled(status):
        return ModelStatus("it cannot start", stalled=True)
    if first is None:
        return ModelStatus("waking" if waking else "", due=due)
    return ModelStatus(_word(first), _percent(first), _number(first.get("etaSeconds")), due)


def _is_stalled(status: Mapping[str, Any]) -> bool:
    conditions = status.get("conditions") or ()
    return any(item.get("type") == "Stalled" and item.get("status") == "True" for item in conditions)


def _word(pod: Mapping[str, Any]) -> str:
    return _WORDS.get(pod.get("phase", ""), "starting")


def _nearness(pod: Mapping[str, Any]) -> tuple[int, int]:
    return _ORDER.index(_word(pod)), _percent(pod) or 0


def _percent(pod: Mapping[str, Any]) -> int | None:
    percent = _number(pod.get("percent"))
    return None if percent is None else int(percent)


def _number(value: object) -> float | None:
    """What may be told to clients and reckoned with; anything else is missing."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LARGEST
    return value if is_one else None  # type: ignore[return-value]


def _unix(timestamp: str | None) -> float | None:
    try:
        return datetime.fromisoformat(timestamp or "").timestamp()
    except ValueError:
        return None
