"""Asks every engine for its `/state` and keeps the latest answer with rates over a short window.

One question to a pod at a time, and a pod that is silent is asked ever more rarely, so it delays nobody. Wakes a
model's key when what it heard could change a decision or a status.
"""

import asyncio
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import aiohttp

from topmast_operator.api.facts import EngineState, Facts
from topmast_operator.api.names import ADMIN_PORT, access_name
from topmast_operator.watch.state import parse_state, requests_so_far, tokens_so_far

WINDOW_S = 20.0
LEAST_SPAN_S = 3.0  # a rate over less is noise
TIMEOUT_S = 2.0
FIRST_ANSWER_S = 2.5  # the first question has been answered by then, or was asked in vain
LONGEST_PAUSE_S = 15.0  # between questions to a pod that does not answer
AT_ONCE = 256
AT_ONCE_SILENT = AT_ONCE // 2  # of these, for pods that did not answer last time, or never yet
STARTING_EVERY_S, SCALED_EVERY_S, SERVING_EVERY_S = 1.0, 2.0, 5.0
MOST_PER_S = 50.0  # questions to pods that are ready: a larger fleet is asked more rarely,
RAREST_S, RAREST_SCALED_S = 30.0, 10.0  # but this often; an answer older than 15 s scales nothing
TOLD_CHANGE = 0.25  # of a rate, before it is worth a pass

Authorise = Callable[[str, str], str | None]  # namespace and model -> what goes into the Authorization header

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    at: float
    input_tokens: int
    output_tokens: int


@dataclass
class Target:
    """One pod that is asked. Times are monotonic seconds."""

    model: tuple[str, str]
    pod: str
    ip: str
    every_s: float
    scaled: bool  # its load decides about replicas
    ready: bool = False
    active_at: float = float("-inf")  # work, or a new request, or not ready yet
    moved_at: float = float("-inf")  # its phase or its loaded bytes changed
    requests: int = 0
    silences: int = 0  # questions in a row without an answer
    heard_at: float = float("-inf")
    state: EngineState | None = None
    told: EngineState | None = None  # what it said when it last woke its model
    samples: deque[Sample] = field(default_factory=deque)
    due_at: float = 0.0
    asked: bool = False  # a question is on its way
    refused: bool = False  # it does not know the operator; said once
    since: float = field(default_factory=time.monotonic)
    met: bool = False  # it has answered, or was silent

    @property
    def silent(self) -> bool:
        return self.silences > 0 or self.state is None


class Engines:
    """The engines that are known, by pod. `track` after each gather, `states` before the next."""

    def __init__(
        self, wake: Callable[[str, str], None], port: int = ADMIN_PORT, authorise: Authorise | None = None
    ) -> None:
        self._wake = wake
        self._port = port
        self._authorise = authorise
        self._targets: dict[tuple[str, str], Target] = {}
        self._pods: dict[tuple[str, str], set[str]] = {}  # of a model
        self._due: list[tuple[float, int, Target]] = []
        self._count = itertools.count()
        self._changed = asyncio.Event()
        self._free, self._free_for_silent = AT_ONCE, AT_ONCE_SILENT

    def states(self, namespace: str, model: str) -> dict[str, EngineState]:
        """What the engines of a model said last, by pod name, each with its age."""
        now = time.monotonic()
        found = {}
        for target in self._of(namespace, model):
            if target.state is not None:
                still_s = max(0.0, now - target.moved_at)
                found[target.pod] = replace(target.state, age_s=_age(target, now), still_s=still_s)
        return found

    def track(self, facts: Facts) -> None:
        """Ask the pods of these facts from now on, and no others of that model."""
        namespace, model = key = facts.model.namespace, facts.model.name
        wanted = {pod.name: pod for pod in facts.pods if pod.ip and not pod.ended}
        for gone in self._pods.get(key, set()) - wanted.keys():
            del self._targets[namespace, gone]
        self._pods[key] = set(wanted)
        watched_closely = facts.model.autoscaling is not None or facts.model.sleep is not None
        for name, pod in wanted.items():
            every_s = (SCALED_EVERY_S if watched_closely else SERVING_EVERY_S) if pod.ready else STARTING_EVERY_S
            target = self._targets.get((namespace, name))
            if target is None or target.ip != pod.ip:
                target = Target(key, name, pod.ip or "", every_s, False, moved_at=time.monotonic())
                self._targets[namespace, name] = target
                self._ask_in(target, 0.0)
            target.scaled, target.ready = facts.model.autoscaling is not None, pod.ready
            if every_s < target.every_s and not target.silences and not target.asked:
                self._ask_in(target, min(every_s, max(0.0, target.due_at - time.monotonic())))
            target.every_s = every_s
        if not wanted:
            self.forget(namespace, model)

    def introduced(self, namespace: str, model: str) -> bool:
        """Whether a model's engines have all been heard, or had the time: before that a restart would look like news.
        A first answer wakes the model."""
        latest = time.monotonic() - FIRST_ANSWER_S
        return all(target.met or target.since < latest for target in self._of(namespace, model))

    def _of(self, namespace: str, model: str) -> list[Target]:
        return [self._targets[namespace, pod] for pod in self._pods.get((namespace, model), ())]

    def forget(self, namespace: str, model: str) -> None:
        for pod in self._pods.pop((namespace, model), ()):
            self._targets.pop((namespace, pod), None)

    async def run(self) -> None:
        """Ask for ever."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=AT_ONCE, keepalive_timeout=30)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as asking,
        ):
            while True:
                wait_s = self._start_due(session, asking)
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), wait_s)
                except TimeoutError:
                    continue

    def _start_due(self, session: aiohttp.ClientSession, asking: asyncio.TaskGroup) -> float | None:
        """Ask whoever is due, as far as there are free slots. Seconds until the next one is due; None: unknown."""
        now = time.monotonic()
        later: list[tuple[float, int, Target]] = []
        wait_s: float | None = None
        while self._due and self._free:
            due_at, _, target = self._due[0]
            if due_at > now:
                wait_s = due_at - now
                break
            entry = heapq.heappop(self._due)
            if self._targets.get((target.model[0], target.pod)) is not target or target.due_at != due_at:
                continue  # forgotten, or asked for at another time
            if target.silent and not self._free_for_silent:
                later.append(entry)
                continue
            self._take(target)
            asking.create_task(self._ask(session, target))
        for entry in later:
            heapq.heappush(self._due, entry)
        return wait_s

    def _take(self, target: Target) -> None:
        target.asked = True
        self._free -= 1
        if target.silent:
            self._free_for_silent -= 1

    def _give_back(self, was_silent: bool) -> None:
        self._free += 1
        if was_silent:
            self._free_for_silent += 1

    def _ask_in(self, target: Target, delay_s: float) -> None:
        target.due_at = time.monotonic() + delay_s
        heapq.heappush(self._due, (target.due_at, next(self._count), target))
        self._changed.set()

    async def _ask(self, session: aiohttp.ClientSession, target: Target) -> None:
        was_silent = target.silent
        try:
            async with session.get(_url(target.ip, self._port), headers=self._headers(target)) as answer:
                body = await answer.json()
                if answer.status == 401:
                    self._refused(target, body)
            news = _take_in(target, _read(body, target, time.monotonic()))
        except Exception as silent:  # whatever listens there may answer anything, and must not end the asking
            log.debug("%s does not tell its state: %r", target.pod, silent)
            target.silences += 1
        else:
            target.silences, target.refused = 0, False
            if news:
                self._wake(*target.model)
        finally:
            target.asked = False
            target.met = True
            self._give_back(was_silent)
            self._ask_in(target, self._pause_s(target))

    def _pause_s(self, target: Target) -> float:
        if target.silences:
            return float(min(LONGEST_PAUSE_S, target.every_s * 2.0 ** min(target.silences, 8)))
        if not target.ready:
            return target.every_s
        rarest_s = RAREST_SCALED_S if target.every_s == SCALED_EVERY_S else RAREST_S
        return max(target.every_s, min(len(self._targets) / MOST_PER_S, rarest_s))

    def _refused(self, target: Target, body: Any) -> NoReturn:
        """As good as silence, but said once: it lasts until somebody mends it, or a new key has got there."""
        said = body.get("error", {}).get("message", "") if isinstance(body, dict) else ""
        if not target.refused:
            target.refused = True
            log.warning(
                "%s/%s refuses the operator's questions, so its state is unknown: %s. Its ConfigMap %s must hold the "
                "public half of the operator's signing key, and the clocks must agree.",
                target.model[0],
                target.pod,
                said or "HTTP 401",
                access_name(target.model[1]),
            )
        raise PermissionError(said)

    def _headers(self, target: Target) -> dict[str, str]:
        token = self._authorise(*target.model) if self._authorise else None
        return {"Authorization": token} if token else {}


def _url(ip: str, port: int) -> str:
    return f"http://[{ip}]:{port}/state" if ":" in ip else f"http://{ip}:{port}/state"


def _read(body: Mapping[str, Any], target: Target, now: float) -> EngineState:
    state = parse_state(body)
    samples = target.samples
    sample = Sample(now, *tokens_so_far(body))
    if samples and (sample.input_tokens < samples[-1].input_tokens or sample.output_tokens < samples[-1].output_tokens):
        samples.clear()  # the engine was restarted
    samples.append(sample)
    while now - samples[0].at > WINDOW_S and len(samples) > 2:
        samples.popleft()
    # Divided by half a window at least: the first seconds of a load are no rate to scale a fleet by.
    spread_s = max(now - samples[0].at, WINDOW_S / 2)
    requests = requests_so_far(body)
    if target.state is None or state.phase != "ready" or state.running or state.waiting or requests != target.requests:
        target.active_at = now
    if target.state is None or (state.phase, state.bytes_done) != (target.state.phase, target.state.bytes_done):
        target.moved_at = now
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


def _take_in(target: Target, state: EngineState) -> bool:
    """Keep what was heard; whether it is worth a pass."""
    # A load that is being measured counts even when it stays the same; an idle fleet wakes nobody.
    measured = target.scaled and (state.running or state.waiting or state.offered_input_tokens_per_s)
    news = bool(measured) or target.told is None or _tells_something_new(target.told, state)
    target.state, target.heard_at = state, time.monotonic()
    if news:
        target.told = state
    return news


def _tells_something_new(before: EngineState, after: EngineState) -> bool:
    if before.phase != after.phase or _steps(before) != _steps(after):
        return True
    rates = before.output_tokens_per_s, after.output_tokens_per_s
    return abs(rates[0] - rates[1]) > TOLD_CHANGE * max(rates)


def _steps(state: EngineState) -> int:
    """Twentieths of the model that are loaded."""
    return state.bytes_done * 20 // state.bytes_total if state.bytes_total else 0
