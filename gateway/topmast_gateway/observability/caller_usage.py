"""What every caller has used of every model, for `/metrics`.

Only names of verified callers and known models get here: nobody can make series by asking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.exposition import head, sample

_MOST_PAIRS: Final = 5000  # of caller and model; beyond it they share one series, which a scrape survives
OTHERS: Final = "(others)"


class UsageRecord(msgspec.Struct, frozen=True):
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
    team: str = ""
    charged_before: int = 0  # tokens, while it was open


class CallerUsage:
    """Counts of requests and tokens by caller and model. `waiting` gives the lengths of the queues, by model."""

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

    def lines(self) -> Iterator[str]:
        """Prometheus's text, line by line."""
        requests = "Requests by API key: answered, refused, failed, cancelled"
        tokens = "Tokens by API key: prompt, cached (a part of prompt), output"
        for name, text, labels, counts in (
            ("caller_requests", requests, ("caller", "model", "outcome"), self._requests),
            ("tokens", tokens, ("caller", "model", "kind"), self._tokens),
        ):
            yield head(f"topmast_gateway_{name}_total", text, "counter")
            for values, count in list(counts.items()):
                yield sample(f"topmast_gateway_{name}_total", labels, values, count)
        yield head("topmast_gateway_queue_requests", "Requests that wait for a slot at a pod", "gauge")
        for model, waiting in self._waiting().items():
            yield sample("topmast_gateway_queue_requests", ("model",), (model,), waiting)
