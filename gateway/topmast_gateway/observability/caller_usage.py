"""What every caller has used of every model, for `/metrics`.

Only names of verified callers and known models get here: nobody can make series by asking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from topmast_gateway.messages.token_usage import TokenUsage

_MOST_PAIRS: Final = 5000  # of caller and model; beyond it they share one series, which a scrape survives
OTHERS: Final = "(others)"


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One request that has ended. `at` is in Unix seconds; `finish` is answered, refused, failed or cancelled."""

    at: float
    request_id: str
    caller: str
    model: str
    usage: TokenUsage
    status: int
    finish: str
    seconds: float
    queued_s: float


class CallerUsage(Collector):
    """Counts of requests and tokens by caller and model. `waiting` tells the queues, by model."""

    def __init__(self, waiting: Callable[[], Mapping[str, int]]) -> None:
        self._waiting = waiting
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._tokens: Counter[tuple[str, str, str]] = Counter()
        self._pairs: set[tuple[str, str]] = set()

    def count(self, record: UsageRecord) -> None:
        """Add one request's part."""
        pair = (record.caller, record.model)
        if pair not in self._pairs and len(self._pairs) >= _MOST_PAIRS:
            pair = (OTHERS, OTHERS)
        self._pairs.add(pair)
        self._requests[*pair, record.finish] += 1
        usage = record.usage
        for kind, tokens in (("prompt", usage.prompt), ("cached", usage.cached), ("output", usage.output)):
            self._tokens[*pair, kind] += tokens

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield _counter(
            "caller_requests",
            "Requests by API key: answered, refused, failed, cancelled",
            ["caller", "model", "outcome"],
            self._requests,
        )
        yield _counter(
            "tokens",
            "Tokens by API key: prompt, cached (a part of prompt), output",
            ["caller", "model", "kind"],
            self._tokens,
        )
        queue = GaugeMetricFamily(
            "topmast_gateway_queue_requests", "Requests that wait for their turn", labels=["model"]
        )
        for model, waiting in self._waiting().items():
            queue.add_metric([model], waiting)
        yield queue


def _counter(name: str, text: str, labels: list[str], counts: Mapping[tuple[str, str, str], int]) -> Metric:
    family = CounterMetricFamily(f"topmast_gateway_{name}", text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family
