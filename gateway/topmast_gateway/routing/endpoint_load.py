"""How much each pod is working on: what this gateway has sent and not yet got back, and what others have sent.

The first is counted here, to the token and without delay; the second is what a pod's last report has beyond it.
It must not know why a pod may be picked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from topmast_gateway.routing.load_report import LoadReport
from topmast_gateway.routing.model_table import Pod

_REPORT_LASTS_S = 5.0  # older ones say nothing about now
_LATELY_S = 60.0


@dataclass(slots=True)
class EndpointLoad:
    """What one pod is working on for this gateway. `picked` orders pods by when they were last picked."""

    pod: Pod
    tokens: int = 0
    requests: int = 0
    picked: int = 0
    recent_tokens: float = 0.0  # tokens of the last minute or so, when the last of them were sent
    sent_at: float = 0.0
    report: LoadReport | None = None
    reported_at: float = 0.0
    requests_then: int = 0  # of this gateway, when the report came


class InFlight:
    """One request's share of a pod's load, until its block ends."""

    __slots__ = ("_load", "_prompt", "tokens")

    def __init__(self, load: EndpointLoad, tokens: int, prompt: int) -> None:
        self._load = load
        self._prompt = prompt
        self.tokens = tokens
        load.tokens += tokens
        load.requests += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._load.tokens -= self.tokens
        self._load.requests -= 1

    def first_token(self) -> None:
        """The prompt is computed: only the answer is still to be generated. Saying it twice changes nothing."""
        self.tokens -= self._prompt
        self._load.tokens -= self._prompt
        self._prompt = 0


class EndpointLoads:
    """Tokens and requests in flight per pod."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._loads: dict[str, EndpointLoad] = {}
        self._picks = 0
        self._clock = clock
        self.gateways: Callable[[], int] = lambda: 2  # that send to the same pods, this one included
        self._journaling: set[tuple[str, str]] = set()  # revisions of models whose servers are ours
        self.full: dict[str, tuple[int, float]] = {}  # by uid: what a pod had when it refused more, and when that was

    def in_flight_tokens(self, pods: Sequence[Pod]) -> list[float]:
        """Tokens in flight at each of a model's pods. A request of others counts as much as ours do on average."""
        loads = [self._loads.get(pod.uid) for pod in pods]
        mean = sum(load.tokens for load in loads if load) / max(1, sum(load.requests for load in loads if load))
        return [load.tokens + self._others(load) * mean if load else 0.0 for load in loads]

    def recent_tokens(self, pods: Sequence[Pod]) -> list[float]:
        """Tokens that this gateway has sent to each pod in the last minute, older ones counting ever less."""
        now = self._clock()
        return [self._faded(load, now) if (load := self._loads.get(pod.uid)) else 0.0 for pod in pods]

    def idleness(self, pod: Pod) -> tuple[int, int]:
        """Orders pods of equal work: the one with fewer requests, then the one that waited longest, comes first."""
        load = self._loads.get(pod.uid)
        return (load.requests, load.picked) if load else (0, 0)

    def places(self, pod: Pod, assumed: int) -> int:
        """Requests that this gateway may have at the pod at once: its sequences, without those of other gateways.

        At least its part of them, by the number of gateways: else one whose requests follow one another at once would
        leave none to the others. `assumed` are the sequences of a pod that does not report.
        """
        if (load := self._loads.get(pod.uid)) is None:
            return assumed
        report = self._fresh(load)
        most = (report.max_num_seqs if report else None) or assumed
        return max(math.ceil(most / max(2, self.gateways())), most - self._others(load))

    def kv_tokens(self, pod: Pod) -> int:
        """What the pod's cache holds; 0 if it never reported."""
        load = self._loads.get(pod.uid)
        return (load.report.kv_tokens or 0) if load and load.report else 0

    def sending(self, pod: Pod, tokens: int, prompt: int = 0) -> InFlight:
        """Count one request and `tokens`, of which `prompt` are its prompt's, until the block of what it gives ends."""
        self._picks += 1
        if (load := self._loads.get(pod.uid)) is None:
            load = self._loads[pod.uid] = EndpointLoad(pod)
        load.picked = self._picks
        now = self._clock()
        load.recent_tokens, load.sent_at = self._faded(load, now) + tokens, now
        return InFlight(load, tokens, min(prompt, tokens))

    def reported(self, pod: Pod, report: LoadReport) -> None:
        """A pod's report has just come."""
        load = self._loads.setdefault(pod.uid, EndpointLoad(pod))
        load.report, load.reported_at, load.requests_then = report, self._clock(), load.requests
        self.saw_journal(pod, bool(report.max_num_seqs))

    def saw_journal(self, pod: Pod, keeps: bool) -> None:
        """A server of this pod's revision keeps journals, or does not."""
        (self._journaling.add if keeps else self._journaling.discard)((pod.model, pod.revision))

    def keeps_journal(self, pod: Pod) -> bool:
        """Whether the servers of this pod's revision are known to keep journals, by a report or an answer of one."""
        return (pod.model, pod.revision) in self._journaling

    def was_full(self, pod: Pod) -> None:
        """The pod refused a request for want of room: remember with how many it did."""
        load = self._loads.get(pod.uid)
        self.full[pod.uid] = (load.requests if load else 0, time.monotonic())

    def forget(self, present: set[str]) -> None:
        """Drop pods that are gone and idle, so that the table does not grow with every rollout."""
        gone = [uid for uid, load in self._loads.items() if uid not in present and load.requests == 0]
        for uid in gone:
            del self._loads[uid]
        self._journaling &= {(load.pod.model, load.pod.revision) for load in self._loads.values()}
        self.full = {uid: seen for uid, seen in self.full.items() if uid in present}

    def __iter__(self) -> Iterator[EndpointLoad]:
        return iter(list(self._loads.values()))

    def _faded(self, load: EndpointLoad, now: float) -> float:
        return load.recent_tokens * math.exp((load.sent_at - now) / _LATELY_S)

    def _others(self, load: EndpointLoad) -> int:
        """Requests of other gateways: what the pod had at its last report, without those that were ours then."""
        report = self._fresh(load)
        return max(0, report.requests - load.requests_then) if report else 0

    def _fresh(self, load: EndpointLoad) -> LoadReport | None:
        return load.report if self._clock() - load.reported_at < _REPORT_LASTS_S else None
