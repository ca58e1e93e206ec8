"""What every caller has used of every model, for `/metrics`.

Only names of verified callers and known models get here: nobody can make series by asking.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from topmast_gateway.messages.token_usage import TokenUsage

_MOST_PAIRS: Final = 5000  # of caller and model; beyond it they share one series, which a scrape survives
_LINES_AT_ONCE: Final = 500  # are written; then others have the loop
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


class CallerUsage:
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

    async def page(self) -> AsyncIterator[bytes]:
        """Prometheus's text, in pieces: thousands of callers must not keep everybody else waiting."""
        requests = "Requests by API key: answered, refused, failed, cancelled"
        tokens = "Tokens by API key: prompt, cached (a part of prompt), output"
        for name, text, labels, counts in (
            ("caller_requests", requests, ("caller", "model", "outcome"), self._requests),
            ("tokens", tokens, ("caller", "model", "kind"), self._tokens),
        ):
            yield _head(f"topmast_gateway_{name}_total", text, "counter")
            samples = list(counts.items())
            for start in range(0, len(samples), _LINES_AT_ONCE):
                lines = (
                    _line(f"topmast_gateway_{name}_total", labels, *one)
                    for one in samples[start : start + _LINES_AT_ONCE]
                )
                yield "".join(lines).encode()
                await asyncio.sleep(0)
        yield _head("topmast_gateway_queue_requests", "Requests that wait for their turn", "gauge")
        queue = self._waiting().items()
        yield "".join(
            _line("topmast_gateway_queue_requests", ("model",), (model,), waiting) for model, waiting in queue
        ).encode()


def _head(name: str, text: str, kind: str) -> bytes:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def _line(name: str, labels: Sequence[str], values: Sequence[str], count: int) -> str:
    escaped = (value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in values)
    pairs = ",".join(f'{label}="{value}"' for label, value in zip(labels, escaped, strict=True))
    return f"{name}{{{pairs}}} {count}\n"
