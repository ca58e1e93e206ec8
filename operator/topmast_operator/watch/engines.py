"""Asks every engine for its `/state` and keeps the latest answer with rates over a short window.

One loop for all pods, bounded in number and time; an engine that does not answer delays nobody. Wakes a model's key
when what it heard could change a decision or a status.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from topmast_operator.api.facts import EngineState, Facts
from topmast_operator.api.names import ADMIN_PORT
from topmast_operator.watch.state import parse_state, requests_so_far, tokens_so_far

WINDOW_S = 20.0
LEAST_SPAN_S = 3.0  # a rate over less is noise
TIMEOUT_S = 2.0
AT_ONCE = 32
STARTING_EVERY_S, SCALED_EVERY_S, SERVING_EVERY_S = 1.0, 2.0, 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    at: float
    input_tokens: int
    output_tokens: int


@dataclass
class Target:
    """One pod that is asked. `heard_at` is monotonic."""

    model: tuple[str, str]
    pod: str
    ip: str
    every_s: float
    scaled: bool  # its load decides about replicas
    active_at: float = float("-inf")  # monotonic; work, or a new request, or not ready yet
    requests: int = 0
    next_at: float = 0.0
    heard_at: float = float("-inf")
    state: EngineState | None = None
    samples: deque[Sample] = field(default_factory=deque)


class Engines:
    """The engines that are known, by pod. `track` after each gather, `states` before the next."""

    def __init__(self, wake: Callable[[str, str], None], port: int = ADMIN_PORT) -> None:
        self._wake = wake
        self._port = port
        self._targets: dict[tuple[str, str], Target] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def states(self, namespace: str, model: str) -> dict[str, EngineState]:
        """What the engines of a model said last, by pod name, each with its age."""
        now = time.monotonic()
        return {
            target.pod: replace(target.state, age_s=_age(target, now))
            for target in self._targets.values()
            if target.model == (namespace, model) and target.state is not None
        }

    def track(self, facts: Facts) -> None:
        """Ask the pods of these facts from now on, and no others of that model."""
        key = (facts.model.namespace, facts.model.name)
        wanted = {(key[0], pod.name): pod for pod in facts.pods if pod.ip}
        for gone in [at for at, target in self._targets.items() if target.model == key and at not in wanted]:
            del self._targets[gone]
        for at, pod in wanted.items():
            serving = SCALED_EVERY_S if facts.model.autoscaling or facts.model.sleep else SERVING_EVERY_S
            every_s = serving if pod.ready else STARTING_EVERY_S
            target = self._targets.get(at)
            if target is None or target.ip != pod.ip:
                self._targets[at] = Target(key, pod.name, pod.ip or "", every_s, facts.model.autoscaling is not None)
            else:
                target.every_s, target.scaled = every_s, facts.model.autoscaling is not None
                target.next_at = min(target.next_at, time.monotonic() + every_s)

    def forget(self, namespace: str, model: str) -> None:
        for gone in [at for at, target in self._targets.items() if target.model == (namespace, model)]:
            del self._targets[gone]

    async def run(self) -> None:
        """Ask for ever."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=AT_ONCE, keepalive_timeout=30)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            asking: set[asyncio.Task[None]] = set()
            while True:
                now = time.monotonic()
                for target in list(self._targets.values()):
                    if target.next_at <= now:
                        target.next_at = now + target.every_s
                        task = asyncio.create_task(self._ask(session, target))
                        asking.add(task)
                        task.add_done_callback(asking.discard)
                await asyncio.sleep(0.25)

    async def _ask(self, session: aiohttp.ClientSession, target: Target) -> None:
        try:
            async with self._slots, session.get(_url(target.ip, self._port)) as answer:
                body = await answer.json()
            state = _read(body, target, time.monotonic())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as silent:
            log.debug("%s does not tell its state: %r", target.pod, silent)
            return
        before, target.state, target.heard_at = target.state, state, time.monotonic()
        if target.scaled or before is None or _tells_something_new(before, state):
            self._wake(*target.model)


def _url(ip: str, port: int) -> str:
    return f"http://[{ip}]:{port}/state" if ":" in ip else f"http://{ip}:{port}/state"


def _read(body: Mapping[str, Any], target: Target, now: float) -> EngineState:
    state = parse_state(body)
    samples = target.samples
    sample = Sample(now, *tokens_so_far(body))
    if samples and (sample.input_tokens < samples[-1].input_tokens or sample.output_tokens < samples[-1].output_tokens):
        samples.clear()  # the engine was restarted
    samples.append(sample)
    while now - samples[0].at > WINDOW_S:
        samples.popleft()
    # Divided by half a window at least: the first seconds of a load are no rate to scale a fleet by.
    spread_s = max(now - samples[0].at, WINDOW_S / 2)
    requests = requests_so_far(body)
    if target.state is None or state.phase != "ready" or state.running or state.waiting or requests != target.requests:
        target.active_at = now
    target.requests = requests
    return replace(
        state,
        idle_s=now - target.active_at,
        offered_input_tokens_per_s=(sample.input_tokens - samples[0].input_tokens) / spread_s,
        output_tokens_per_s=(sample.output_tokens - samples[0].output_tokens) / spread_s,
    )


def _age(target: Target, now: float) -> float:
    """Seconds since the engine answered; infinite until its rates mean something, so that nobody shrinks on them."""
    span_s = target.samples[-1].at - target.samples[0].at if target.samples else 0.0
    return now - target.heard_at if span_s >= LEAST_SPAN_S else float("inf")


def _tells_something_new(before: EngineState, after: EngineState) -> bool:
    if before.phase != after.phase:
        return True
    percents = [state.bytes_done * 20 // state.bytes_total if state.bytes_total else 0 for state in (before, after)]
    return percents[0] != percents[1]
