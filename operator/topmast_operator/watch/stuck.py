"""Why a pod that has a node gets no container: the kubelet says it in Events alone, not in the pod's status."""

import time
from collections.abc import Mapping
from typing import Any

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError
from topmast_operator.api.facts import PodFacts

AFTER_S = 20.0  # since it was scheduled; volumes and sandboxes take a while
KEEP_S = 10.0
SAYS_NOTHING = frozenset({"", "ContainerCreating", "PodInitializing"})


class StuckPods:
    """Asks for the Events of one pod at a time, and keeps each answer for some seconds."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._said: dict[tuple[str, str], tuple[float, str]] = {}

    async def message(self, namespace: str, pod: PodFacts, now: float) -> str:
        """The last warning about a pod that is stuck; empty for any other pod, or when nothing was said."""
        if not is_stuck(pod, now):
            return ""
        at, said = self._said.get((namespace, pod.name), (float("-inf"), ""))
        asked_at = time.monotonic()
        if asked_at - at > KEEP_S:
            said = await self._ask(namespace, pod.name)
            self._said = {key: kept for key, kept in self._said.items() if asked_at - kept[0] <= KEEP_S}
            self._said[namespace, pod.name] = (asked_at, said)
        return said

    async def _ask(self, namespace: str, name: str) -> str:
        selector = f"involvedObject.kind=Pod,involvedObject.name={name},type=Warning"
        try:
            events = await self._api.list(paths.core_events(namespace), field_selector=selector)
        except ApiError as error:
            if error.status == 403:
                return ""
            raise
        last = max(events, key=_time, default=None)
        return f"{last.get('reason', '')}: {last.get('message', '')}" if last else ""


def is_stuck(pod: PodFacts, now: float) -> bool:
    """It has a node for long enough, and no container that says why it does not run."""
    waits = pod.phase == "Pending" and pod.node is not None and pod.waiting_reason in SAYS_NOTHING
    since = pod.scheduled_unix_s or pod.created_unix_s
    return waits and not pod.deleting and pod.terminated is None and now - since > AFTER_S


def _time(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")
