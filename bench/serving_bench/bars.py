"""The bars of the engine's issue, each a comparison that a run can refute. The median of the repeats decides."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from serving_bench.contestants import OURS
from serving_bench.figures import look_up, spread

Runs = Mapping[str, Sequence[dict[str, Any]]]

# Larger is better, or smaller is; a ratio is always how many times better ours is.
RATES: Final = ("output_tokens_per_s", "requests_per_s", "decode_tokens_per_s", "prefill_tokens_per_s")
TIMES: Final = ("ttft_ms.p50", "ttft_ms.p99", "token_ms.p50", "gap_ms.p99", "request_ms.p99", "first_token_s")


@dataclass(frozen=True)
class Bar:
    """`figure` of ours against `wanted`: at most that where `most`, else at least. Against a peer it is the ratio.

    wanted: on CPUs that multiply bfloat16 themselves, and on others.
    """

    scenario: str
    text: str
    figure: str
    wanted: tuple[float, float]
    peer: str | None = None
    most: bool = False


@dataclass(frozen=True)
class Outcome:
    """met: None where it was not measured. A ratio's spread is that of the repeats."""

    text: str
    wanted: str
    median: float | None = None
    least: float | None = None
    most: float | None = None
    met: bool | None = None


def _ratio(scenario: str, figure: str, peer: str, fast: float, other: float | None = None) -> Bar:
    return Bar(scenario, f"{figure} against {peer}", figure, (fast, fast if other is None else other), peer)


def _most(scenario: str, text: str, figure: str, wanted: float) -> Bar:
    return Bar(scenario, text, figure, (wanted, wanted), most=True)


BARS: Final = (
    _ratio("c32", "output_tokens_per_s", "vllm", 1.5, 2.2),
    _ratio("c8", "output_tokens_per_s", "vllm", 1.4, 2.5),
    _ratio("c1", "decode_tokens_per_s", "llama.cpp", 1.0, 1.2),
    _ratio("c1", "decode_tokens_per_s", "vllm", 2.0),
    _ratio("c1", "ttft_ms.p50", "vllm", 1.0),
    _ratio("c1", "ttft_ms.p50", "llama.cpp", 1.0),
    _ratio("c32", "ttft_ms.p99", "vllm", 1.0),
    _ratio("c32", "ttft_ms.p99", "llama.cpp", 1.0),
    _ratio("prefill512", "prefill_tokens_per_s", "llama.cpp", 3.0, 2.2),
    _most("start", "start of the process to a first token, s", "first_token_s", 3.0),
    _ratio("prefix", "requests_per_s", "without cache", 1.6),
    Bar(
        "invariance",
        "rate without --batch-invariant over that with it",
        "output_tokens_per_s",
        (1.1, 1.1),
        "batch-invariant",
        most=True,
    ),
    _most("overload", "TTFT p99 of accepted requests over the target", "ttft_p99_over_target", 2.0),
    _most("overload", "refusals, p99 ms", "refusal_ms.p99", 10.0),
    _most("overload", "growth of memory, MiB a minute", "usage.rss_mib.per_minute", 5.0),
    _most("overload", "recovery, s", "recovery_s", 5.0),
    _most("longprefill", "gap p99 beside a prefill over the goal", "gap_p99_over_goal", 2.0),
    _most("neighbours", "gap p99 over p50", "gap_p99_over_p50", 4.0),
    Bar("soak", "nothing left behind, every counter equal", "clean", (1.0, 1.0)),
    _most("soak", "growth of memory, MiB a minute", "usage.rss_mib.per_minute", 2.0),
)


def judge(scenario: str, runs: Runs, *, fast_bfloat16: bool) -> list[dict[str, Any]]:
    """The outcomes of one scenario's bars; a bar that could not be measured says so."""
    return [
        asdict(_judge(bar, runs, bar.wanted[0 if fast_bfloat16 else 1])) for bar in BARS if bar.scenario == scenario
    ]


def _judge(bar: Bar, runs: Runs, wanted: float) -> Outcome:
    shown = f"{'<=' if bar.most else '>='} {wanted:g}"
    values = ratios(runs, bar.peer, bar.figure) if bar.peer else values_of(runs.get(OURS, ()), bar.figure)
    if not values:
        return Outcome(bar.text, shown)
    median = statistics.median(values)
    met = median <= wanted if bar.most else median >= wanted
    return Outcome(bar.text, shown, round(median, 3), round(min(values), 3), round(max(values), 3), met)


def values_of(runs: Sequence[dict[str, Any]], figure: str) -> list[float]:
    """One value per repeat in which it was measured."""
    return [value for run in runs if (value := look_up(run, figure)) is not None]


def ratios(runs: Runs, peer: str, figure: str) -> list[float]:
    """How many times better ours was, repeat by repeat, than the best of the peer's settings, in process included."""
    found = []
    for number, ours in enumerate(runs.get(OURS, ())):
        a = look_up(ours, figure) if _whole(ours) else None
        theirs = [each[number] for name, each in runs.items() if family(name) == peer and number < len(each)]
        values = [value for run in theirs if _whole(run) for value in _both_ways(run, figure)]
        if a and values:
            found.append(a / max(values) if figure in RATES else min(values) / a)
    return found


def family(name: str) -> str:
    """The peer whose setting it is: "vllm" of "vllm (all cores)"."""
    return name.split(" (")[0]


def _both_ways(run: dict[str, Any], figure: str) -> list[float]:
    return [value for path in (figure, f"in_process.{figure}") if (value := look_up(run, path))]


def _whole(run: dict[str, Any]) -> bool:
    """A server that failed, or turned requests away, had less to do: it is compared with nobody."""
    return "failed" not in run and run.get("complete") == run.get("requests")


def all_ratios(runs: Runs) -> dict[str, dict[str, dict[str, float]]]:
    """Of every figure against every peer: median, least and most."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for other in dict.fromkeys(map(family, runs)):
        for figure in (*RATES, *TIMES):
            if other != OURS and (values := ratios(runs, other, figure)):
                each = {name: round(value, 3) for name, value in spread(values).items()}
                result.setdefault(other, {})[figure] = each
    return result
