"""A model of an engine behind a fair queue, in simulated time. No tasks, no sockets, no noise.

The engine works in steps, as real ones do: every running answer gets a token, and prompts are computed in the order of
their arrival as far as a step's time allows. So a step takes longer the more there is to do, and whoever is let through
delays all others. The queue decides who gets the next of its places.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from topmast_gateway.fairness.fair_queue import FairQueue, QueueFull
from topmast_gateway.fairness.virtual_token_counter import QueueEntry
from topmast_gateway.identity.caller import Caller, Priority
from topmast_gateway.messages.token_usage import TokenUsage

# About what SmolLM2-135M takes on two cores.
PREFILL_S_PER_TOKEN = 0.0005
STEP_S = 0.0045
DECODE_S_PER_TOKEN = 0.0009
_GOAL_S = 0.15  # what prompts may make a step take
_GRAIN = 16  # tokens that the first prompt gets however long the step is already
_HOP_S = 0.003  # between gateway and engine


@dataclass(frozen=True)
class Job:
    """One request: when it comes (s), whose it is, and how many tokens it takes."""

    at_s: float
    caller: Caller
    prompt: int
    output: int
    priority: Priority = Priority.NORMAL


@dataclass
class Outcome:
    """What happened to the jobs, by caller. `ttft_s` has when each came, and its time to the first token."""

    ttft_s: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass(eq=False)
class _Answer:
    """A job that has its place. `left` are tokens of its prompt."""

    ticket: QueueEntry
    job: Job
    reaches_s: float
    left: int


def p99(times_s: list[float]) -> float:
    """What 99 of 100 stay below."""
    return sorted(times_s)[int(len(times_s) * 0.99)]


def poisson(
    caller: Caller, per_s: float, until_s: float, seed: int, sizes: tuple[range, range] = (range(64, 65), range(48, 49))
) -> Iterator[Job]:
    """Arrivals at random, with prompts and answers of these lengths."""
    random_, at_s = random.Random(seed), 0.0
    while (at_s := at_s + random_.expovariate(per_s)) < until_s:
        yield Job(at_s, caller, random_.choice(sizes[0]), random_.choice(sizes[1]))


class Engine:
    """`places` answers at most, and the queue before them."""

    def __init__(self, places: int, max_waiting: int) -> None:
        self._places = places
        self._turnstile = FairQueue(max_waiting)
        self._jobs: dict[QueueEntry, Job] = {}
        self._answers: list[_Answer] = []  # in the order of their slots
        self._chunks: dict[_Answer, int] = {}  # of prompts, in this step
        self.outcome = Outcome()

    def run(self, jobs: list[Job]) -> Outcome:
        """Serve all jobs, to the end of the last one."""
        coming, now_s = deque(sorted(jobs, key=lambda job: job.at_s)), 0.0
        while coming or self._answers or self._turnstile.waiting:
            here = [one for one in self._answers if one.reaches_s <= now_s]
            if not here:
                now_s = min([one.reaches_s for one in self._answers] + [job.at_s for job in list(coming)[:1]])
            ends_s = now_s + self._begin(here) if here else now_s
            while coming and coming[0].at_s <= ends_s:
                self._arrive(coming.popleft())
            now_s = ends_s
            self._end(here, now_s)
            self._let_through(now_s)
        assert self._turnstile.running == 0
        self.outcome.seconds = now_s
        return self.outcome

    def _begin(self, here: list[_Answer]) -> float:
        """Plan a step; how long it takes."""
        decoding = sum(not one.left for one in here)
        seconds = STEP_S + decoding * DECODE_S_PER_TOKEN
        least = _GRAIN
        for one in here:
            if one.left:
                room = max(least, int(max(0.0, _GOAL_S - seconds) / PREFILL_S_PER_TOKEN) // _GRAIN * _GRAIN)
                self._chunks[one] = chunk = min(one.left, room)
                seconds += chunk * PREFILL_S_PER_TOKEN
                least = 0
        return seconds

    def _end(self, here: list[_Answer], now_s: float) -> None:
        """The step's tokens."""
        for one in here:
            if one.left:
                one.left -= self._chunks.pop(one)
                if one.left:
                    continue
                ttft_s = now_s + _HOP_S - one.job.at_s
                self.outcome.ttft_s.setdefault(one.job.caller.name, []).append((one.job.at_s, ttft_s))
            one.ticket.usage.output += 1
            if one.ticket.usage.output == one.job.output:
                self._answers.remove(one)
                self._turnstile.finish(one.ticket)

    def _arrive(self, job: Job) -> None:
        ticket = QueueEntry(job.caller, job.priority, job.prompt, TokenUsage(), job.at_s)
        self._jobs[ticket] = job
        bumped = self._turnstile.arrive(ticket)
        if isinstance(bumped, QueueFull):
            self.outcome.refused[job.caller.name] += 1
        elif bumped is not None:
            self.outcome.refused[bumped.caller.name] += 1
        self._let_through(job.at_s)

    def _let_through(self, now_s: float) -> None:
        while ticket := self._turnstile.next(now_s, self._places - self._turnstile.running):
            job = self._jobs.pop(ticket)
            ticket.usage.prompt = job.prompt  # an engine's journal begins with it
            self._answers.append(_Answer(ticket, job, now_s + _HOP_S, job.prompt))
            self.outcome.order.append(job.caller.name)
