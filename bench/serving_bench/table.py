"""The results as Markdown, written between two markers of docs/performance.md from the JSON files alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

from serving_bench.bars import BARS, values_of

BEGIN: Final = "<!-- serving: begin. Written by `python bench/serving.py --table` from bench/results/ -->"
END: Final = "<!-- serving: end -->"
_COLUMNS: Final = (
    ("output_tokens_per_s", "out tok/s"),
    ("decode_tokens_per_s", "decode tok/s"),
    ("prefill_tokens_per_s", "prefill tok/s"),
    ("in_process.decode_tokens_per_s", "decode in process"),
    ("in_process.prefill_tokens_per_s", "prefill in process"),
    ("ttft_ms.p50", "TTFT p50 ms"),
    ("ttft_ms.p99", "TTFT p99 ms"),
    ("gap_ms.p99", "gap p99 ms"),
    ("first_token_s", "first token s"),
    ("usage.client_share", "client / server CPU"),
)


def write(docs: Path, results: Path) -> None:
    """Replace what is between the markers; raises ValueError where they are missing."""
    text = docs.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{docs} has lost its markers: put back the lines\n{BEGIN}\n{END}")
    before, after = text.split(BEGIN)[0], text.split(END, 1)[1]
    passes = [json.loads(path.read_text()) for path in sorted(results.glob("forward-*.json"))]
    docs.write_text(f"{before}{BEGIN}\n\n{table(reports(results), passes)}\n{END}{after}")


def reports(results: Path) -> list[dict[str, Any]]:
    """Everything measured, machine by machine, scenarios in the order of the bars."""
    order = {bar.scenario: place for place, bar in reversed(list(enumerate(BARS)))}
    found = [json.loads(path.read_text()) for path in sorted(results.glob("serving-*.json"))]
    return sorted(found, key=lambda each: (_machine(each), order.get(each["scenario"], len(BARS))))


def table(found: list[dict[str, Any]], passes: list[dict[str, Any]]) -> str:
    """Per machine: the bars, the figures (median of the repeats), and where the time goes, in answers and in passes."""
    lines: list[str] = []
    for name in dict.fromkeys(map(_machine, found)):
        here = [report for report in found if _machine(report) == name]
        lines += [f"### {name}", "", "| scenario | bar | wanted | measured (spread) | |", "|---|---|---|---|---|"]
        lines += [_bar(report, bar) for report in here for bar in report["bars"]]
        head = " | ".join(title for _, title in _COLUMNS)
        lines += ["", f"| scenario | who | repeats | {head} |", "|---" * (len(_COLUMNS) + 3) + "|"]
        lines += [_row(report, who) for report in here if report["scenario"] != "profile" for who in report["runs"]]
        lines += ["", *(_provenance(report) for report in here), ""]
        lines += _of_answers([run for report in here for runs in report["runs"].values() for run in runs])
        lines += _of_passes([each["cases"] for each in passes if _machine(each) == name])
    return "\n".join(lines) if lines else "Nothing was measured yet.\n"


def _machine(report: dict[str, Any]) -> str:
    here = report["machine"]
    return f"{here['cpu']}, {here['cores']} cores, {', '.join(here['instructions']) or 'no AVX2'}"


def _of_answers(runs: list[dict[str, Any]]) -> list[str]:
    """Shares of the time: the median of the repeats."""
    loads = [load for run in runs for load in run.get("profile", [])]
    if not loads:
        return []
    parts = [name for name in loads[0] if name not in ("clients", "tokens", "wall")]
    lines = ["Where the time of answers goes, in % of it; CPU in % of one core:", ""]
    lines += [f"| clients | {' | '.join(parts)} |", "|---" * (len(parts) + 1) + "|"]
    for clients in dict.fromkeys(load["clients"] for load in loads):
        same = [load for load in loads if load["clients"] == clients]
        shares = [statistics.median(100 * load[part] / load["wall"] for load in same) for part in parts]
        lines.append(f"| {clients} | {' | '.join(f'{share:.1f}' for share in shares)} |")
    return [*lines, ""]


def _of_passes(found: list[dict[str, dict[str, float]]]) -> list[str]:
    """Milliseconds of a forward pass."""
    if not found:
        return []
    parts = list(next(iter(found[0].values())))
    lines = ["Where the time of a forward pass goes, in ms (`python bench/forward.py`):", ""]
    lines += [f"| pass | {' | '.join(parts)} |", "|---" * (len(parts) + 1) + "|"]
    for cases in found:
        lines += [f"| {name} | {' | '.join(f'{case[part]:.2f}' for part in parts)} |" for name, case in cases.items()]
    return [*lines, ""]


def _bar(report: dict[str, Any], bar: dict[str, Any]) -> str:
    if bar["met"] is None:
        return f"| {report['scenario']} | {bar['text']} | {bar['wanted']} | not measured | |"
    measured = f"{bar['median']:g} ({bar['least']:g} to {bar['most']:g})"
    return (
        f"| {report['scenario']} | {bar['text']} | {bar['wanted']} | {measured} | {'met' if bar['met'] else '**no**'} |"
    )


def _row(report: dict[str, Any], who: str) -> str:
    runs = report["runs"][who]
    cells = []
    for figure, _ in _COLUMNS:
        values = values_of(runs, figure)
        cells.append(f"{statistics.median(values):.3g}" if values else "")
        if values and statistics.median(values) >= 1000:
            cells[-1] = f"{statistics.median(values):.0f}"
    return f"| {report['scenario']} | {who} | {len(runs)} | {' | '.join(cells)} |"


def _provenance(report: dict[str, Any]) -> str:
    here = report["machine"]
    meanwhile = [value for runs in report["runs"].values() for value in values_of(runs, "usage.elsewhere_share")]
    share = max([here["busy_before"], *meanwhile])
    noise = "quiet" if here["quiet"] else f"**not quiet** (others used up to {share:.0%} of the cores)"
    scale = "" if report["scale"] == 1 else f", scaled down to {report['scale']:g}"
    who = "; ".join(f"{name} {each['version']}" for name, each in report["contestants"].items())
    when = f"{here['at']}, commit {here['commit']}, load {here['load_average']}, {noise}{scale}"
    return f"- {report['scenario']}: {when}. {who}."
