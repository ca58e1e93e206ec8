"""What waits at this gateway, by model, and what went away unserved: the operator scales by it.

An engine is given no more requests than it runs at once, so it never sees how many there would be. Counts alone: who is
next is decided in fair_queue.py, and who waits for a pod in hold.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from topmast_gateway.messages.completion import CompletionRequest


@dataclass(slots=True)
class WaitingWork:
    """Requests, tokens of their prompts that are still to be computed, and tokens of their answers, by estimate."""

    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def add(self, request: CompletionRequest, times: int = 1) -> None:
        """One request more, or with -1 one less."""
        self.requests += times
        self.prompt_tokens += times * request.fresh
        self.output_tokens += times * request.answer


@dataclass(slots=True)
class _Model:
    """`gone`: all that ever went away unserved, less what came back. `since`: when those who wait came."""

    waiting: WaitingWork = field(default_factory=WaitingWork)
    gone: WaitingWork = field(default_factory=WaitingWork)
    since: dict[WaitingRequest, float] = field(default_factory=dict)  # in the order of arrival


class WaitingRequest:
    """`with`: it waits until the block ends, or says that it is served. A block that fails before has sent it away."""

    __slots__ = ("_queue", "_request")

    def __init__(self, queue: _Model, request: CompletionRequest, now: float) -> None:
        self._queue = queue
        self._request = request
        queue.waiting.add(request)
        queue.since[self] = now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and self in self._queue.since:
            self._queue.gone.add(self._request)
        self.served()

    def served(self) -> None:
        """It has a slot; saying it twice changes nothing."""
        if self._queue.since.pop(self, None) is not None:
            self._queue.waiting.add(self._request, -1)


class Backlog:
    """`replica` names this process: what is counted begins anew with every other one."""

    def __init__(self, replica: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._replica = replica
        self._clock = clock
        self._models: dict[str, _Model] = {}

    def waiting(self, model: str, request: CompletionRequest, *, again: bool = False) -> WaitingRequest:
        """Count a request as waiting, in a block. `again`: it was sent away once, so it is no new work."""
        if (queue := self._models.get(model)) is None:
            queue = self._models[model] = _Model()
        if again:
            queue.gone.add(request, -1)
        return WaitingRequest(queue, request, self._clock())

    def answer(self, models: Container[str]) -> bytes:
        """What `GET /queue` gives. `models` are all that exist: of others nothing is kept once nobody waits."""
        for model, queue in list(self._models.items()):
            if not queue.since and (queue.gone == WaitingWork() or model not in models):
                del self._models[model]
        now = self._clock()
        return json.dumps(
            {
                "replica": self._replica,
                "models": {model: _entry(queue, now) for model, queue in self._models.items()},
            }
        ).encode()


def _entry(queue: _Model, now: float) -> dict[str, object]:
    oldest = next(iter(queue.since.values()), now)
    return {"waiting": _numbers(queue.waiting), "oldest_s": round(now - oldest, 3), "gone": _numbers(queue.gone)}


def _numbers(work: WaitingWork) -> dict[str, int]:
    return {
        "requests": work.requests,
        "prompt_tokens": work.prompt_tokens,
        "output_tokens": work.output_tokens,
    }
