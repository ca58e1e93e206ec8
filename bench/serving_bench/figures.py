"""From answers to figures: percentiles, rates, goodput, and the spread over repeats. No input or output."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from serving_bench.client import Answer


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between the two nearest ranks; raises ValueError where there are no values."""
    if not values:
        raise ValueError("no values: nothing was measured")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def in_ms(values_s: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, mean and max in milliseconds; empty where there are no values."""
    if not values_s:
        return {}
    shares = {f"p{percent}": percentile(values_s, percent) for percent in (50, 90, 99)}
    shares |= {"mean": statistics.fmean(values_s), "max": max(values_s)}
    return {name: round(value * 1e3, 3) for name, value in shares.items()}


def summary(answers: Sequence[Answer], *, ttft_target_s: float, itl_target_s: float) -> dict[str, Any]:
    """The figures of one run. Rates go from the first request to the last token; incomplete answers count as errors.

    ttft, token, request: milliseconds. token: the mean time per token after the first, per request. gap: between two
    events. goodput: requests a second whose first token and mean token time met both targets.
    """
    complete = [answer for answer in answers if answer.complete]
    refused = [answer for answer in answers if answer.status in (429, 503)]
    wrong = [each for each in answers if not each.complete and not each.left and each.status not in (429, 503)]
    seconds = max((each.done_s for each in answers), default=0.0) - min((each.due_s for each in answers), default=0.0)
    result: dict[str, Any] = {
        "requests": len(answers),
        "complete": len(complete),
        "refused": len(refused),
        "left": sum(answer.left for answer in answers),
        "errors": dict(Counter(answer.error for answer in wrong)),
        "seconds": round(seconds, 3),
    }
    if not complete:
        return result
    good = [each for each in complete if each.ttft_s <= ttft_target_s and _token_s(each) <= itl_target_s]
    result |= {
        "output_tokens_per_s": round(sum(each.output_tokens for each in complete) / seconds, 2),
        "input_tokens_per_s": round(sum(each.prompt_tokens for each in complete) / seconds, 2),
        "requests_per_s": round(len(complete) / seconds, 3),
        "goodput_requests_per_s": round(len(good) / seconds, 3),
        "cached_tokens": sum(each.cached_tokens for each in complete),
        "ttft_ms": in_ms([each.ttft_s for each in complete]),
        "token_ms": in_ms([_token_s(each) for each in complete if each.output_tokens > 1]),
        "gap_ms": in_ms([gap for each in complete for gap in each.gaps_s]),
        "request_ms": in_ms([each.done_s - each.due_s for each in complete]),
        "refusal_ms": in_ms([each.done_s - each.sent_s for each in refused]),
        "client_late_ms": in_ms([each.sent_s - each.due_s for each in answers]),
    }
    return result


def _token_s(answer: Answer) -> float:
    if answer.output_tokens < 2:
        return 0.0
    return (answer.events_s[-1] - answer.events_s[0]) / (answer.output_tokens - 1)


def slope_per_minute(samples: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of (seconds, value), per minute; 0 with fewer than two samples."""
    if len({at for at, _ in samples}) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*samples, strict=True)).slope * 60


def look_up(run: Any, path: str) -> float | None:
    """`run["ttft_ms"]["p50"]` by "ttft_ms.p50"; None where it was not measured."""
    for part in path.split("."):
        run = run.get(part) if isinstance(run, dict) else None
    return float(run) if isinstance(run, int | float) else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of the repeats."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
