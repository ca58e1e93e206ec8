"""Replays a trace through gateways in front of engines, as discrete events: nobody sleeps, equal runs are equal."""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from routing_bench.engine import H200, Engine, Job, Speed
from routing_bench.policies import Policy
from routing_bench.trace import BLOCK_TOKENS, Asked
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.load_report import LoadReport
from topmast_gateway.routing.model_table import Pod
from topmast_gateway.routing.prefix_hash import PrefixChain

SCRAPE_S: Final = 1.0
_ANSWER_TOKENS: Final = 256  # what a gateway supposes where no bound was given; it cannot know the answer's length


@dataclass(frozen=True, slots=True)
class Setting:
    """One run's surroundings. `load` is the offered prompt tokens over what all engines can prefill without caches."""

    load: float
    speed: Speed = H200
    engines: int = 4
    gateways: int = 1
    seed: int = 0


class Gateway:
    """What one gateway knows, and its policy."""

    def __init__(self, make: Callable[[EndpointLoads], Policy], clock: Callable[[], float]) -> None:
        self.loads = EndpointLoads(clock)
        self.policy = make(self.loads)


def run(trace: Sequence[Asked], make: Callable[[EndpointLoads], Policy], setting: Setting) -> dict[str, Any]:
    """Figures of one policy over one trace."""
    world = _World(make, setting)
    offered = sum(asked.prompt for asked in trace)
    seconds = offered / (setting.load * setting.engines * setting.speed.prefill_tokens_per_s)
    began, lasted = trace[0].at_s, max(trace[-1].at_s - trace[0].at_s, 1e-9)
    arrivals = [((asked.at_s - began) / lasted * seconds, asked) for asked in trace]
    world.play(arrivals)
    return world.figures(seconds)


class _World:
    def __init__(self, make: Callable[[EndpointLoads], Policy], setting: Setting) -> None:
        self.setting = setting
        self.now = 0.0
        self.events: list[tuple[float, int, Engine, int]] = []
        order = itertools.count()

        def wake(when: float, engine: Engine, version: int) -> None:
            heapq.heappush(self.events, (when, next(order), engine, version))

        self.engines = [Engine(setting.speed, wake) for _ in range(setting.engines)]
        self.pods = [Pod(f"uid-{n}", "bench", f"pod-{n}", "bench/model", "") for n in range(setting.engines)]
        self.gateways = [Gateway(make, lambda: self.now) for _ in range(setting.gateways)]
        self.chance = random.Random(setting.seed)
        self.jobs: list[Job] = []
        self.reasons: Counter[str] = Counter()

    def play(self, arrivals: Sequence[tuple[float, Asked]]) -> None:
        """Everything that happens, in order."""
        next_scrape_s = 0.0
        for number, (at_s, asked) in enumerate(arrivals):
            while next_scrape_s <= at_s:
                self._until(next_scrape_s)
                self._scrape()
                next_scrape_s += SCRAPE_S
            self._until(at_s)
            self._arrive(number, asked)
        while self.events:
            self._until(self.events[0][0])

    def figures(self, seconds: float) -> dict[str, Any]:
        firsts = [job.first_s - job.arrived_s for job in self.jobs]
        computed = [engine.prefilled_tokens for engine in self.engines]
        cuts = statistics.quantiles(firsts, n=100, method="inclusive")
        rate = self.setting.speed.prefill_tokens_per_s
        return {
            "hit_rate": sum(engine.cached_tokens for engine in self.engines) / sum(job.prompt for job in self.jobs),
            "imbalance": max(computed) / statistics.mean(computed),
            "ttft_mean_s": statistics.mean(firsts),
            "ttft_p50_s": cuts[49],
            "ttft_p99_s": cuts[98],
            "prefill_utilisation": sum(computed) / (rate * seconds * len(self.engines)),
            "reasons": dict(self.reasons),
        }

    def _until(self, at_s: float) -> None:
        while self.events and self.events[0][0] <= at_s:
            self.now, _, engine, version = heapq.heappop(self.events)
            engine.finish_step(self.now, version)
        self.now = at_s

    def _scrape(self) -> None:
        speed = self.setting.speed
        for engine, pod in zip(self.engines, self.pods, strict=True):
            told = LoadReport(len(engine.running), len(engine.waiting), None, speed.slots, speed.kv_tokens)
            for gateway in self.gateways:
                gateway.loads.reported(pod, told)

    def _arrive(self, number: int, asked: Asked) -> None:
        gateway = self.chance.choice(self.gateways)
        anchor = asked.blocks[asked.opening - 1] if asked.opening else number.to_bytes(8, "big")
        chain = PrefixChain(asked.blocks, anchor, asked.opening, asked.prompt, BLOCK_TOKENS)
        ask = CompletionRequest("/v1/completions", b"", "model", True, asked.prompt + _ANSWER_TOKENS, chain=chain)
        choice = gateway.policy.choose(self.pods, ask)
        self.reasons[choice.reason] += 1
        cached = choice.matched * BLOCK_TOKENS
        stack = ExitStack()
        credit = stack.enter_context(
            gateway.loads.sending(choice.pod, max(1, ask.tokens - cached), max(0, asked.prompt - cached))
        )
        job = Job(self.now, asked.prompt, asked.output, asked.blocks, credit.first_token, stack.close)
        self.jobs.append(job)
        self.engines[self.pods.index(choice.pod)].submit(self.now, job)
