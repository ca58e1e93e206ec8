"""The results as Markdown, written between two markers of docs/performance.md from the JSON files alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

from serving_bench.figures import look_up

BEGIN: Final = "<!-- gateway: begin. Written by `python bench/gateway.py --table` from bench/results/ -->"
END: Final = "<!-- gateway: end -->"
_FIGURES: Final = (
    ("latency1", "direct.first_event.p50", "first event, direct, 1 stream, p50 ms"),
    ("latency1", "added.first_event.p50", "added to it, p50 ms"),
    ("latency1", "added.event.p50", "added to an event, 1 stream, p50 ms"),
    ("latency1", "added.event.p99", "added to an event, 1 stream, p99 ms"),
    ("latency32", "direct.event.p50", "event, direct, 32 streams, p50 ms"),
    ("latency32", "waited_share", "of the time the gateway waited for a core (noise)"),
    ("burst32", "direct.event.p50", "event, direct, 32 streams in step, p50 ms"),
    ("burst32", "added.event.p50", "added to an event, 32 streams in step, p50 ms"),
    ("burst32", "added.event.p99", "added to an event, 32 streams in step, p99 ms"),
    ("requests", "us_per_request", "CPU of the gateway per request, µs, with one event"),
    ("requests", "requests_per_s", "requests a second, of one core"),
    ("throughput", "us_per_event", "CPU of the gateway per event, µs"),
    ("throughput", "events_per_read", "events that came in one read"),
    ("throughput", "gateway_cpu_share", "of one core used meanwhile"),
    ("throughput", "relay.us_per_event", "CPU of the raw relay per event, same load, µs"),
    ("throughput", "relay.events_per_read", "events that came in one read through the relay"),
    ("throughput", "busy.gateway.us_per_event", "CPU of the gateway per event, µs, busy"),
    ("throughput", "busy.gateway.events_per_read", "events that came in one read, busy"),
    ("throughput", "busy.relay.us_per_event", "CPU of the raw relay per event, µs, busy"),
    ("throughput", "busy.relay.events_per_read", "events that came in one read through the relay, busy"),
    ("throughput", "busy.ratio.median", "ratio to a raw relay, CPU per event, busy (no bar: batching differs)"),
    ("streams", "kib_per_stream", "memory of an open stream, KiB"),
)


def write(docs: Path, results: Path) -> None:
    """Replace what is between the markers; raises ValueError where they are missing."""
    text = docs.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{docs} has lost its markers: put back the lines\n{BEGIN}\n{END}")
    before, after = text.split(BEGIN)[0], text.split(END, 1)[1]
    reports = [json.loads(path.read_text()) for path in sorted(results.glob("gateway-*.json"))]
    tables = "\n".join(map(table, reports)) or "Nothing was measured yet.\n"
    docs.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}")


def table(report: dict[str, Any]) -> str:
    """The bars of one machine, then figures without a bar, then where and when."""
    here = report["machine"]
    lines = [f"### {here['cpu']}, {here['cores']} cores", "", "| | wanted | measured (spread) | |", "|---|---|---|---|"]
    for bar in report["bars"]:
        measured = f"{bar['median']:g} ({bar['least']:g} to {bar['most']:g})"
        lines.append(f"| {bar['text']} | {bar['wanted']} | {measured} | {'met' if bar['met'] else '**no**'} |")
    for scenario, figure, text in _FIGURES:
        values = [value for run in report["runs"].get(scenario, ()) if (value := look_up(run, figure)) is not None]
        if values:
            lines.append(f"| {text} | | {statistics.median(values):g} ({min(values):g} to {max(values):g}) | |")
    noise = "quiet" if here["quiet"] else f"**not quiet** (others used {here['busy_before']:.0%} of the cores before)"
    return "\n".join([*lines, "", f"{here['at']}, commit {here['commit']}, load {here['load_average']}, {noise}.", ""])
