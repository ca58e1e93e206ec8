"""What the gateway promises of itself, and whether the figures of a run keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from serving_bench.figures import look_up


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure of a scenario and its limit; `least` says on which side it must be."""

    scenario: str
    figure: str
    text: str
    limit: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.least else '<='} {self.limit:g}"


BARS: Final = (
    Bar("latency32", "added.first_event.p50", "added to the first event, p50 ms, 32 streams", 1.0),
    Bar("latency32", "added.first_event.p99", "added to the first event, p99 ms, 32 streams", 6),
    Bar("latency32", "added.event.p50", "added to an event, p50 ms, 32 streams", 1.0),
    Bar("latency32", "added.event.p99", "added to an event, p99 ms, 32 streams", 6),
    Bar("throughput", "events_per_cpu_s", "events a second and core of the gateway's CPU time", 8000, least=True),
    Bar("throughput", "ratio.median", "ratio to a raw relay, CPU per event", 1.5),
    Bar("streams", "rss_mib", "memory with 1,000 open streams, MiB", 250),
    Bar("bodies", "growth_mib", "growth of memory while 50 bodies of 10 MB are refused, MiB", 2),
    Bar("abuse", "gap_p99_ratio", "time between events, p99, beside one abusive key, times alone", 1.5),
    Bar("abuse", "peak_mib", "most memory meanwhile, MiB", 500),
)


def judge(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every bar whose scenario ran, by the median of its repeats."""
    verdicts = []
    for bar in BARS:
        values = [value for run in runs.get(bar.scenario, ()) if (value := look_up(run, bar.figure)) is not None]
        if values:
            ordered = sorted(values)
            median = ordered[len(ordered) // 2]
            verdicts.append(
                {
                    **{"scenario": bar.scenario, "text": bar.text, "wanted": bar.wanted, "met": bar.met(median)},
                    **{"median": median, "least": ordered[0], "most": ordered[-1]},
                }
            )
    return verdicts


def wrong(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is no matter of speed: streams that ended, bodies that were taken."""
    found = [f"{run['streams'] - run['alive']} open streams ended" for run in runs.get("streams", ())]
    found += [f"{run['bodies'] - run['refused']} large bodies were not refused" for run in runs.get("bodies", ())]
    found += [f"{run['refused']} streams beside an abusive key were refused" for run in runs.get("abuse", ())]
    for run in runs.get("large", ()):
        found.append(f"{run['large'] - run['accepted']} large bodies did not reach the engine")
        found.append(f"{run['failed']} answers to large bodies were not whole")
        found.append(f"{run['refused']} streams beside large bodies were refused")
    return [line for line in found if not line.startswith("0 ")]
