"""A model of an engine behind a turnstile, in simulated time: slots, prefill, decode. No tasks, no sockets, no noise.

A request takes a slot for its prefill and its decode; a turnstile decides who gets the next one. Answers grow while
they run, so that the turnstile sees what it would see in a gateway.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from topmast_gateway.caller import Band, Caller
from topmast_gateway.tally import Tally
from topmast_gateway.turnstile import Full, Turnstile
from topmast_gateway.vtc import Ticket

PREFILL_S_PER_TOKEN = 0.0005
DECODE_S_PER_TOKEN = 0.02
GROWS_EVERY_S = 0.05


@dataclass(frozen=True)
class Job:
    """One request: when it comes (s), whose it is, and how many tokens it takes."""

    at_s: float
    caller: Caller
    prompt: int
    output: int
    band: Band = Band.NORMAL

    @property
    def service_s(self) -> float:
        return self.prompt * PREFILL_S_PER_TOKEN + self.output * DECODE_S_PER_TOKEN


@dataclass
class Outcome:
    """What happened to every job, by caller."""

    ttft_s: dict[str, list[float]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)


def p99(times_s: list[float]) -> float:
    """What 99 of 100 stay below."""
    return sorted(times_s)[int(len(times_s) * 0.99)]


def poisson(caller: Caller, per_s: float, until_s: float, seed: int, band: Band = Band.NORMAL) -> list[Job]:
    """Arrivals at random, with prompts and answers of mixed length."""
    random_ = random.Random(seed)
    jobs, at_s = [], 0.0
    while (at_s := at_s + random_.expovariate(per_s)) < until_s:
        jobs.append(Job(at_s, caller, random_.randint(100, 1000), random_.randint(20, 180), band))
    return jobs


def run(jobs: list[Job], slots: int, max_waiting: int = 512) -> Outcome:
    """Serve all jobs. Between events running answers grow evenly."""
    turnstile, outcome, number = Turnstile(max_waiting), Outcome(), 0
    events: list[tuple[float, int, Job | Ticket]] = []
    for job in jobs:
        heapq.heappush(events, (job.at_s, number := number + 1, job))
    of: dict[Ticket, Job] = {}
    started_s: dict[Ticket, float] = {}
    grown_s = 0.0
    while events:
        now_s, _, what = heapq.heappop(events)
        if now_s - grown_s >= GROWS_EVERY_S:
            grown_s = now_s
            for ticket, since_s in started_s.items():
                _grow(ticket, of[ticket], now_s - since_s)
        if isinstance(what, Job):
            ticket = Ticket(what.caller, what.band, what.prompt, Tally(), now_s)
            entered = turnstile.arrive(ticket)
            if isinstance(entered, Full):
                outcome.refused[what.caller.name] = outcome.refused.get(what.caller.name, 0) + 1
            else:
                of[ticket] = what
                if entered is not None:
                    outcome.refused[entered.caller.name] = outcome.refused.get(entered.caller.name, 0) + 1
        else:
            _grow(what, of[what], now_s - started_s.pop(what))
            turnstile.finish(what)
        while ticket := turnstile.next(now_s, slots - turnstile.running):
            job = of[ticket]
            started_s[ticket] = now_s
            outcome.order.append(job.caller.name)
            ttft_s = now_s - job.at_s + job.prompt * PREFILL_S_PER_TOKEN + DECODE_S_PER_TOKEN
            outcome.ttft_s.setdefault(job.caller.name, []).append(ttft_s)
            heapq.heappush(events, (now_s + job.service_s, number := number + 1, ticket))
    assert turnstile.waiting == 0 and turnstile.running == 0
    return outcome


def _grow(ticket: Ticket, job: Job, ran_s: float) -> None:
    prefill_s = job.prompt * PREFILL_S_PER_TOKEN
    if ran_s >= prefill_s:
        ticket.tally.prompt = job.prompt
        ticket.tally.output = min(job.output, int((ran_s - prefill_s) / DECODE_S_PER_TOKEN))
