"""A scaled model in simulated time, end to end: requests, a gateway's queue, engines, and the operator's decisions.

The gateway's queue and its account, the sums over its answers, the engines' rates, the load and the decision are the
product's own. Played are engines, which share their time between the requests they run, and the clients.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from dataclasses import dataclass, field, replace
from typing import Any

from operatorlab.facts import NOW, model, pod, settled
from topmast_gateway.fairness.fair_queue import FairQueue, QueueFull
from topmast_gateway.fairness.virtual_token_counter import QueueEntry
from topmast_gateway.identity.caller import Caller, Priority
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.backlog import Backlog, WaitingRequest
from topmast_operator.plan import autoscale
from topmast_operator.plan.load import measure
from topmast_operator.watch.engines import Target, _read
from topmast_operator.watch.queues import Queues, parse_answer

KEY = "ns/m"
STEP_S, LOOK_S = 0.1, 2.0
PREFILL, DECODE = 1000.0, 500.0  # tokens a second that one engine can do
STREAM = 60.0  # tokens a second that one answer gets at most
QUEUE_S, MAX_WAITING = 30.0, 512  # the gateway's defaults
FIRST_LOOK_S = 3.0  # an engine's rates mean nothing before


@dataclass(eq=False)
class Request:
    """Tokens that are left, and how often it was sent before."""

    prompt: float
    answer: float
    tries: int = 0
    ticket: QueueEntry | None = None
    place: WaitingRequest | None = None


@dataclass
class Replica:
    """An engine, or one that starts until `ready_at`. Prompts come first, with a part of its time; answers share it."""

    number: int
    ready_at: float
    running: list[Request] = field(default_factory=list)
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    target: Target = field(default_factory=lambda: Target(("ns", "m"), "", "", LOOK_S, True))

    def take(self, request: Request) -> None:
        self.running.append(request)
        self.input_tokens += request.prompt

    def work(self) -> list[Request]:
        """One step; the requests that it ends."""
        left_s = STEP_S
        decoding = [request for request in self.running if request.prompt <= 0]
        prefilling = next((request for request in self.running if request.prompt > 0), None)
        if prefilling:
            used_s = min(left_s * (0.6 if decoding else 1.0), prefilling.prompt / PREFILL)
            prefilling.prompt -= used_s * PREFILL
            left_s -= used_s
        for request in decoding:
            made = min(left_s * DECODE / len(decoding), STREAM * STEP_S, request.answer)
            request.answer -= made
            self.output_tokens += made
        done = [request for request in self.running if request.prompt <= 1e-6 and request.answer <= 1e-6]
        self.running = [request for request in self.running if request not in done]
        return done

    def state(self, now: float) -> Any:
        work = {"running": len(self.running), "input_tokens_total": self.input_tokens}
        work |= {"output_tokens_total": self.output_tokens, "kv_tokens_used": 200 * len(self.running)}
        capacity = {"prefill_tokens_per_s": PREFILL, "decode_tokens_per_s": DECODE, "kv_tokens": 50_000}
        self.target.state = _read({"phase": "ready", "work": work, "capacity": capacity}, self.target, now)
        span_s = self.target.samples[-1].at - self.target.samples[0].at
        return replace(self.target.state, age_s=0.0 if span_s >= FIRST_LOOK_S else math.inf)


@dataclass(frozen=True)
class Change:
    """Replicas that are wanted from a moment on."""

    at: float
    desired: int
    reason: str


class ScaledFleet:
    """`run` it; `changes`, `looks` and `served` tell how it went. Times are simulated seconds."""

    def __init__(
        self,
        *,
        seed: int = 0,
        replicas: int = 1,
        places: int = 32,
        start_s: float = 60.0,
        prompt: int = 300,
        answer: int = 100,
        hold_s: int = 300,
        retries: int = 0,
        asked: bool = True,
    ) -> None:
        self.now = 0.0
        self.rate = 0.0
        self.changes: list[Change] = []
        self.looks: list[tuple[float, int, int]] = []  # when, requests that wait at the gateway, replicas wanted then
        self.served = self.sent_away = 0
        self._draw = random.Random(seed)
        self._places, self._start_s, self._tokens, self._retries = places, start_s, (prompt, answer), retries
        self._asked = asked  # whether the operator asks the gateway
        scaling = {"maxReplicas": 500, "scaleDownHoldSeconds": hold_s}
        self._model = model(autoscaling=scaling)
        self._memory = autoscale.ScaleMemory(replicas)
        self._replicas = [Replica(number, 0.0) for number in range(replicas)]
        self._numbers = replicas
        self._turnstile = FairQueue(MAX_WAITING)
        self._backlog = Backlog("one", lambda: self.now)
        self._caller = Caller("all")
        self._waiting: dict[QueueEntry, Request] = {}
        self._again: list[tuple[float, int, Request]] = []
        self._next_at = self._looked_at = 0.0
        self._queues = Queues()
        self._queues.watch(KEY, self.now)

    @property
    def desired(self) -> int:
        return self._memory.desired

    @property
    def waiting(self) -> int:
        return self._turnstile.waiting

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self._replicas if replica.ready_at <= self.now]

    def send(self, count: int) -> None:
        """So many requests at once."""
        for _ in range(count):
            self._arrive(self._request())

    def run(self, until: float, rate: float | None = None) -> None:
        """Go on until then, with `rate` requests a second from now on."""
        if rate is not None and rate != self.rate:
            self.rate = rate
            self._next_at = self.now + self._pause()
        while self.now < until:
            self.now += STEP_S
            while self._next_at <= self.now:
                self._arrive(self._request())
                self._next_at += self._pause()
            while self._again and self._again[0][0] <= self.now:
                self._arrive(heapq.heappop(self._again)[2])
            self._give_up()
            self._let_through()
            for replica in self.ready:
                for request in replica.work():
                    self._end(request)
            if self.now - self._looked_at >= LOOK_S:
                self._looked_at = self.now
                self._look()

    def _request(self) -> Request:
        prompt, answer = self._tokens
        return Request(prompt * self._draw.uniform(0.5, 1.5), answer * self._draw.uniform(0.5, 1.5))

    def _pause(self) -> float:
        return self._draw.expovariate(self.rate) if self.rate else math.inf

    def _free(self) -> int:
        return sum(self._places for _ in self.ready) - self._turnstile.running

    def _arrive(self, request: Request) -> None:
        """As dispatcher.py has it: who would wait for too long is told so at once."""
        prompt, answer = round(request.prompt), round(request.answer)
        ask = CompletionRequest(
            "/v1/completions", b"", "m", False, prompt + answer, prompt=prompt, fresh=prompt, answer=answer
        )
        request.place = self._backlog.waiting(KEY, ask, again=request.tries > 0)
        request.ticket = QueueEntry(self._caller, Priority.NORMAL, prompt, TokenUsage(), self.now)
        expected_s = self._turnstile.wait_s(self._caller, self.now)
        full = expected_s is not None and expected_s > QUEUE_S
        if full or isinstance(self._turnstile.arrive(request.ticket), QueueFull):
            self._send_away(request, expected_s or 1.0)
        else:
            self._waiting[request.ticket] = request

    def _give_up(self) -> None:
        for ticket in [ticket for ticket in self._waiting if self.now - ticket.arrived_s > QUEUE_S]:
            self._turnstile.leave(ticket)
            self._send_away(self._waiting.pop(ticket), 1.0)

    def _send_away(self, request: Request, retry_s: float) -> None:
        assert request.place is not None
        self.sent_away += 1
        gone = TimeoutError()
        request.place.__exit__(TimeoutError, gone, None)
        if request.tries < self._retries:
            later = Request(request.prompt, request.answer, request.tries + 1)
            heapq.heappush(self._again, (self.now + min(60.0, max(1.0, retry_s)), id(later), later))

    def _let_through(self) -> None:
        while (ticket := self._turnstile.next(self.now, self._free())) is not None:
            request = self._waiting.pop(ticket)
            assert request.place is not None
            request.place.served()
            ticket.usage.prompt = ticket.usage.output = 1  # computed at once: one caller, so no order is to be kept
            min(self.ready, key=lambda replica: len(replica.running)).take(request)

    def _end(self, request: Request) -> None:
        assert request.ticket is not None
        self.served += 1
        self._turnstile.finish(request.ticket)

    def _look(self) -> None:
        """The operator's part."""
        self._queues.hear("gateway", parse_answer(json.loads(self._backlog.answer((KEY,)))))
        self._queues.look(self.now)
        pods = []
        for replica in self._replicas:
            if replica.ready_at <= self.now:
                pods.append(pod(self._model, replica.number, engine=replica.state(self.now)))
            else:
                pods.append(pod(self._model, replica.number, ready=False))
        facts = replace(settled(self._model, 0), pods=tuple(pods), now=NOW + self.now)
        if self._asked:
            facts = replace(facts, queue=self._queues.queue(KEY))
        policy = self._model.autoscaling
        assert policy is not None
        decision = autoscale.decide(policy, self._memory, measure(facts), facts.now)
        if decision.desired != self.desired:
            self.changes.append(Change(self.now, decision.desired, decision.reason))
        self._memory = decision.memory
        self.looks.append((self.now, self.waiting, self.desired))
        self._resize()

    def _resize(self) -> None:
        while len(self._replicas) < self.desired:
            self._replicas.append(Replica(self._numbers, self.now + self._start_s))
            self._numbers += 1
        if len(self._replicas) > self.desired:  # drained: what it runs goes on, and ends elsewhere
            least = min(self.ready, key=lambda replica: len(replica.running))
            self._replicas.remove(least)
            for request in least.running:
                min(self.ready, key=lambda replica: len(replica.running)).running.append(request)
