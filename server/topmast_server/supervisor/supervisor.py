"""The engine's life: phases while it starts, tokens to their requests, and a failure when it dies or hangs.

It owns the engine process. It knows nothing of HTTP; what it raises into channels is an EngineLost or a
GenerationFailed, and the HTTP side gives them their status.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from topmast_server.engine.launch import Launched
from topmast_server.messages import Cancel, Failed, Loading, Message, Ready, Sampling, Step, Stop, Submit
from topmast_server.supervisor.channel import Arrival, Channel
from topmast_server.supervisor.health import WATCH_INTERVAL_S, HangJudge
from topmast_server.supervisor.link import Link
from topmast_server.supervisor.outcome import Failure, death_of

_LAST_WORDS_S: Final = 1.0  # how long a dead engine's exit status may take to be known
_STOP_S: Final = 3.0


class EngineLost(Exception):
    """The engine is gone, and the request's work with it."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence to generate, as a request asks for it."""

    token_ids: list[int]
    max_tokens: int
    sampling: Sampling
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    priority: int = 1
    deadline_s: float | None = None  # CLOCK_MONOTONIC
    cache_salt: str = ""


@dataclass(slots=True)
class Load:
    """How far the weights are."""

    bytes_done: int = 0
    bytes_total: int = 0
    eta_s: float | None = None


class Supervisor:
    """Made in the event loop, to which every method belongs."""

    def __init__(
        self, launched: Launched, hang_timeout_s: float, load_timeout_s: float, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called after every change of `phase` or `load`, and at a failure."""
        self.phase = "starting"  # starting, loading, warming, ready or failed
        self.load = Load()
        self.info: dict[str, Any] = {}
        self.stats: dict[str, float] = {}
        self.failure: Failure | None = None
        self.judge = HangJudge(hang_timeout_s)
        self._load_judge = HangJudge(load_timeout_s)
        self.ended = asyncio.Event()  # set once, when the engine has failed
        self._on_change = on_change
        self._process: subprocess.Popen[bytes] = launched.process
        self.progress = launched.progress
        self._loading_since_s: float | None = None
        self._routes: dict[str, tuple[Channel, int]] = {}
        self._serial = 0
        self._stopping = False
        self._link = Link(launched.connection, self._on_message, self._on_closed)
        self._watch = asyncio.get_running_loop().create_task(self._watch_progress())

    @property
    def in_flight(self) -> int:
        """Sequences handed over and not finished."""
        return len(self._routes)

    def submit(self, channel: Channel, sequences: list[Sequence]) -> list[str]:
        """Hand sequences over; their tokens arrive in `channel`. The ids are for `cancel`."""
        if self.failure is not None:
            raise EngineLost(self.failure.message)
        names = []
        for index, one in enumerate(sequences):
            # Our own serial: a caller's request id need not be unique.
            self._serial += 1
            name = str(self._serial)
            names.append(name)
            self._routes[name] = (channel, index)
            self._link.send(
                Submit(
                    *(name, one.token_ids, one.max_tokens, one.sampling, one.stop_token_ids, one.ignore_eos),
                    *(one.priority, one.deadline_s, one.cache_salt),
                )
            )
        return names

    def cancel(self, names: list[str]) -> int:
        """End what of these is not finished; returns how many there were."""
        live = [name for name in names if self._routes.pop(name, None) is not None]
        for name in live:
            self._link.send(Cancel(name))
        return len(live)

    def give_up(self, error: Exception) -> None:
        """End every request in flight with `error`."""
        routes, self._routes = self._routes, {}
        for name, (channel, _) in routes.items():
            channel.fail(error)
            self._link.send(Cancel(name))

    def fail(self, failure: Failure) -> None:
        """The first failure counts; requests in flight end with it."""
        if self.failure is not None or self._stopping:
            return
        self.failure = failure
        self.phase = "failed"
        self.give_up(EngineLost(failure.message))
        self.ended.set()
        self._on_change()

    async def stop(self) -> None:
        """End the engine process: politely, then by force. No process is left behind."""
        self._stopping = True
        self._watch.cancel()
        if self.failure is None:
            self._link.send(Stop())
            await self._wait(_STOP_S)
        if self._process.poll() is None:
            self._process.kill()
        await self._wait(_STOP_S)

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Step):
            self._deliver(message)
        elif isinstance(message, Loading):
            self._on_loading(message)
        elif isinstance(message, Ready):
            self.info = message.info
            self.phase = "ready"
            self._on_change()
        elif isinstance(message, Failed):
            self.fail(Failure(message.code, message.message))

    def _deliver(self, step: Step) -> None:
        self.stats = step.stats
        now_s = time.monotonic()
        for token in step.tokens:
            route = self._routes.get(token.request_id)
            if route is None:
                continue  # cancelled while this step was under way
            if token.finish is not None:
                del self._routes[token.request_id]
            channel, index = route
            channel.put(Arrival(index, token, now_s))

    def _on_loading(self, loading: Loading) -> None:
        now_s = time.monotonic()
        if self._loading_since_s is None:
            self._loading_since_s = now_s
        self.phase = loading.phase
        if loading.phase == "loading":
            left = loading.bytes_total - loading.bytes_done
            passed_s = now_s - self._loading_since_s
            eta_s = round(passed_s * left / loading.bytes_done, 3) if loading.bytes_done else None
            self.load = Load(loading.bytes_done, loading.bytes_total, eta_s)
        self._on_change()

    def _on_closed(self) -> None:
        if not self._stopping and self.failure is None:
            self._last_words = asyncio.get_running_loop().create_task(self._report_death())

    async def _report_death(self) -> None:
        phase = "serving" if self.phase == "ready" else self.phase
        await self._wait(_LAST_WORDS_S)
        self.fail(death_of(self._process.poll(), phase))

    async def _watch_progress(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if self.phase == "failed":
                return
            ready = self.phase == "ready"
            judge = self.judge if ready else self._load_judge
            verdict = judge.observe(time.monotonic(), self.progress.read(), self.in_flight)
            if verdict.hung:
                what = "the engine hung" if ready else f"the engine hung while it was {self.phase} the model"
                remedy = (
                    "if steps are rightly this slow, raise --hang-timeout-s"
                    if ready
                    else "look whether the model's volume answers; if it is rightly this slow, raise --load-timeout-s"
                )
                self.fail(
                    Failure(
                        "EngineHung",
                        f"{what}: {verdict.reason}, the limit is {verdict.limit_s:.0f} s; it was killed, and the "
                        f"server ends to be started afresh; {remedy}",
                    )
                )
                self._process.kill()
                return

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, seconds)
