"""The results as Markdown, written between two markers of docs/performance.md from the JSON files alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

from serving_bench.figures import look_up

BEGIN: Final = "<!-- gateway: begin. Written by `python bench/gateway.py --table` from bench/results/ -->"
END: Final = "<!-- gateway: end -->"
_VARIANTS: Final = (
    ("tls", "TLS"),
    ("jwt", "JWT"),
    ("limits", "a key and a team with every limit"),
    ("two", "two gateways that share limits"),
)
_RATIOS: Final = (
    ("ratio.first_event.p50", "first event, p50"),
    ("ratio.event.p50", "event, p50"),
    ("ratio.us_per_event.median", "CPU per event"),
    ("ratio.us_per_request.median", "CPU per request"),
    ("ratio.us_per_connection.median", "CPU per connection and its first request"),
)
FIGURES: Final = (
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
    ("large", "event_p99_ratio", "a small stream's event, p99, beside large bodies, times alone"),
    ("large", "gap_p99_ratio", "time between events, p99, beside large bodies, times alone"),
    ("large", "first_event.128_kib.p50", "first event after 128 KiB, p50 ms"),
    ("large", "first_event.1024_kib.p50", "first event after 1 MiB, p50 ms"),
    ("large", "first_event.7680_kib.p50", "first event after 7.5 MiB, p50 ms"),
    ("large", "peak_mib", "most memory meanwhile, MiB"),
    *((name, figure, f"{what}: {text}, times plain") for name, what in _VARIANTS for figure, text in _RATIOS),
    ("processes", "empty.rss_mib", "memory of an idle gateway, MiB"),
    ("processes", "first.rss_mib", "memory of an idle gateway with 1,000 models, MiB"),
    ("processes", "second_adds_mib", "what a second one adds, shared pages counted once, MiB"),
    ("processes", "first.idle_cpu_ms_per_s", "CPU of an idle gateway with 1,000 models, ms in each second"),
    ("processes", "empty.ready_s", "from start to ready, s"),
    ("processes", "first.ready_s", "from start to ready with 1,000 models, s"),
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
    scale = report.get("scale", 1.0)
    part = "" if scale == 1 else f", at --scale {scale:g}: so much of the streams, models and turns"
    lines = [
        f"### {here['cpu']}, {here['cores']} cores{part}",
        "",
        "| | wanted | measured (spread) | |",
        "|---|---|---|---|",
    ]
    for bar in report["bars"]:
        measured = f"{bar['median']:g} ({bar['least']:g} to {bar['most']:g})"
        lines.append(f"| {bar['text']} | {bar['wanted']} | {measured} | {'met' if bar['met'] else '**no**'} |")
    for scenario, figure, text in FIGURES:
        values = [value for run in report["runs"].get(scenario, ()) if (value := look_up(run, figure)) is not None]
        if values:
            lines.append(f"| {text} | | {statistics.median(values):g} ({min(values):g} to {max(values):g}) | |")
    noise = "quiet" if here["quiet"] else f"**not quiet** (others used {here['busy_before']:.0%} of the cores before)"
    return "\n".join([*lines, "", f"{here['at']}, commit {here['commit']}, load {here['load_average']}, {noise}.", ""])
