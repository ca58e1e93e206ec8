"""Which pod gets the next request: the one with the fewest tokens in flight.

Owns the count of what this gateway has sent to each pod and not yet got back. It must not know why a pod may be picked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from topmast_gateway.routes import Pod


@dataclass(slots=True)
class Load:
    """What one pod is working on for this gateway. `turn` is when it was last picked."""

    pod: Pod
    tokens: int = 0
    requests: int = 0
    turn: int = 0


class Loads:
    """Tokens and requests in flight per pod. Several gateways each see their own share, which is enough to balance."""

    def __init__(self) -> None:
        self._loads: dict[str, Load] = {}
        self._turn = 0
        self.full: dict[str, tuple[int, float]] = {}  # by uid: what a pod had when it refused more, and when that was

    def least(self, pods: Sequence[Pod]) -> Pod:
        """The pod with the fewest tokens, then requests, in flight; among equals the one that waited longest."""
        return min(pods, key=self._rank)

    @contextmanager
    def sending(self, pod: Pod, tokens: int) -> Iterator[None]:
        """Count `tokens` and one request against the pod for as long as the block runs."""
        self._turn += 1
        load = self._loads.setdefault(pod.uid, Load(pod))
        load.turn = self._turn
        load.tokens += tokens
        load.requests += 1
        try:
            yield
        finally:
            load.tokens -= tokens
            load.requests -= 1

    def was_full(self, pod: Pod) -> None:
        """The pod refused a request for want of room: remember with how many it did."""
        load = self._loads.get(pod.uid)
        self.full[pod.uid] = (load.requests if load else 0, time.monotonic())

    def forget(self, present: set[str]) -> None:
        """Drop pods that are gone and idle, so that the table does not grow with every rollout."""
        gone = [uid for uid, load in self._loads.items() if uid not in present and load.requests == 0]
        for uid in gone:
            del self._loads[uid]
        self.full = {uid: seen for uid, seen in self.full.items() if uid in present}

    def __iter__(self) -> Iterator[Load]:
        return iter(list(self._loads.values()))

    def _rank(self, pod: Pod) -> tuple[int, int, int]:
        load = self._loads.get(pod.uid)
        return (load.tokens, load.requests, load.turn) if load else (0, 0, 0)
