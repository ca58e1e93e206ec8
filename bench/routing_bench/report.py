"""All runs over one trace, the bars they have to clear, and the tables of docs/reference/routing-measurements.md."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from serving_bench.machine import commit

from routing_bench import chats
from routing_bench.engine import H200
from routing_bench.policies import POLICIES, VARIANTS, Ours, Policy
from routing_bench.simulate import Setting, run
from routing_bench.trace import Asked, ideal_hit_rate, parse, unshared
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.load_report import LoadReport
from topmast_gateway.routing.model_table import Pod
from topmast_gateway.routing.prefix_hash import PrefixChain

CACHES: Final = {"large caches": 4_000_000, "small caches": 1_000_000}  # tokens of KV in each engine
LOAD: Final = 1.0
LIGHT_LOAD: Final = 0.2
_CHATS = 1000  # conversations
UNSHARED_LOADS: Final = (0.5, 0.7, 0.9)
SEEDS: Final = 16  # of which request comes to which gateway
_STARTS: Final = ("hash not trusted at first", "hash trusted a quarter at first")
_BEGIN, _END = "<!-- routing: begin. Written by `python bench/routing.py` from its JSON -->", "<!-- routing: end -->"
Runs = dict[str, dict[str, Any]]


def measure(trace: Sequence[Asked], name: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything, in a few minutes."""
    report: dict[str, Any] = {
        "trace": name,
        "requests": len(trace),
        "prompt_tokens": sum(asked.prompt for asked in trace),
        "commit": commit(),
        "speed": asdict(H200),
        "load": LOAD,
        "ideal_hit_rate": ideal_hit_rate(trace),
        "scenarios": {},
    }
    base = Setting(LOAD)
    for caches, tokens in CACHES.items():
        speed = replace(H200, kv_tokens=tokens)
        together = ideal_hit_rate(trace, tokens * base.engines)
        for gateways in (1, 2):
            setting = replace(base, speed=speed, gateways=gateways)
            runs = _runs(trace, POLICIES, setting)
            report["scenarios"][f"{caches}, {_count(gateways)}"] = {"ideal_hit_rate": together, "runs": runs}
            say(f"{caches}, {_count(gateways)}: done")
    for gateways in (1, 2):
        runs = _runs(trace, VARIANTS, replace(base, gateways=gateways))
        report["scenarios"][f"variants, {_count(gateways)}"] = {"runs": runs}
        say(f"variants, {_count(gateways)}: done")
    report["seeds"] = {
        f"{name}, {gateways} gateways": _lost(trace, make, replace(base, gateways=gateways))
        for name, make in (("topmast", Ours), *((name, VARIANTS[name]) for name in _STARTS))
        for gateways in (2, 3)
    }
    say(f"{SEEDS} seeds: done")
    made = parse(json.dumps(line) for line in chats.lines(_CHATS))
    for gateways in (1, 2):
        runs = _runs(made, POLICIES, Setting(LIGHT_LOAD, gateways=gateways))
        name = f"chats with two system prompts, load {LIGHT_LOAD}, {_count(gateways)}"
        report["scenarios"][name] = {"ideal_hit_rate": ideal_hit_rate(made), "runs": runs}
        say(f"{name}: done")
    own = unshared(trace)
    for load in UNSHARED_LOADS:
        runs = _runs(own, {name: POLICIES[name] for name in ("least load", "plain CHWBL", "topmast")}, Setting(load))
        report["scenarios"][f"nothing shared, load {load}"] = {"ideal_hit_rate": 0.0, "runs": runs}
        say(f"nothing shared, load {load}: done")
    report["choice_us"] = {f"{pods} pods": choice_us(pods) for pods in (4, 32, 128)}
    report["bars"] = bars(report)
    return report


def _lost(trace: Sequence[Asked], make: Callable[[EndpointLoads], Policy], setting: Setting) -> dict[str, float]:
    """The hit rate below that of one endless cache, in points, over seeds."""
    ideal = ideal_hit_rate(trace)
    lost = [100 * (ideal - run(trace, make, replace(setting, seed=seed))["hit_rate"]) for seed in range(SEEDS)]
    return {"mean": statistics.mean(lost), "least": min(lost), "most": max(lost)}


def bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was promised, and whether it holds."""
    found = []

    def bar(what: str, value: float, most: float) -> None:
        found.append({"bar": what, "value": value, "most": most, "met": value <= most})

    for name, scenario in report["scenarios"].items():
        ours = scenario["runs"].get("topmast")
        if ours and not name.startswith("nothing"):
            lost = scenario["ideal_hit_rate"] - ours["hit_rate"]
            bar(f"{name}: hit rate below that of one cache of the same size", lost, 0.05)
            bar(f"{name}: most over mean of computed tokens", ours["imbalance"], 1.3)
        elif ours:
            ratio = ours["ttft_mean_s"] / scenario["runs"]["least load"]["ttft_mean_s"]
            bar(f"{name}: mean time to first token over least load's", ratio, 1.02)
    for gateways in (1, 2):
        name = f"large caches, {_count(gateways)}"
        lost = report["ideal_hit_rate"] - report["scenarios"][name]["runs"]["topmast"]["hit_rate"]
        bar(f"{name}: hit rate below that of one endless cache", lost, 0.05)
    return found


def write_table(page: Path, report: dict[str, Any]) -> None:
    """Replace the generated part of docs/reference/routing-measurements.md."""
    text = page.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    if not rest or not after:
        raise ValueError(f"{page} lacks the lines {_BEGIN!r} and {_END!r}")
    page.write_text(f"{before}{_BEGIN}\n{table(report)}{_END}{after}")


def table(report: dict[str, Any]) -> str:
    """Markdown: a table of each scenario's runs."""
    parts = []
    for name, scenario in report["scenarios"].items():
        best = scenario.get("ideal_hit_rate")
        ideal = f" (one cache of the same size: {best:.1%})" if best else ""
        parts += [
            f"\n| {name}{ideal} | hit rate | imbalance | TTFT mean | p50 | p99 | prefill utilisation |",
            "|---|---|---|---|---|---|---|",
        ]
        parts += [
            f"| {policy} | {one['hit_rate']:.1%} | {one['imbalance']:.2f} | {one['ttft_mean_s']:.2f} s | "
            f"{one['ttft_p50_s']:.2f} s | {one['ttft_p99_s']:.2f} s | {one['prefill_utilisation']:.0%} |"
            for policy, one in scenario["runs"].items()
        ]
    parts += [
        f"\n| {SEEDS} seeds, large caches | points below one endless cache, mean | least | most |",
        "|---|---|---|---|",
    ]
    parts += [
        f"| {name} | {one['mean']:.1f} | {one['least']:.1f} | {one['most']:.1f} |"
        for name, one in report["seeds"].items()
    ]
    return "\n".join([*parts, "", ""])


def choice_us(pods: int, blocks: int = 512, times: int = 200) -> float:
    """Microseconds of this machine for one choice among so many pods, for a prompt of so many blocks."""
    everybody = [Pod(f"uid-{n}", "bench", f"pod-{n}", "bench/model", "") for n in range(pods)]
    loads = EndpointLoads()
    for pod in everybody:
        loads.reported(pod, LoadReport(3, 0, None, 32, 1_000_000))
    policy, spent = Ours(loads), []
    for number in range(times):
        head = (number % 20).to_bytes(8, "big")
        chain = PrefixChain(tuple(head + place.to_bytes(8, "big") for place in range(blocks)), head, 16, blocks * 64)
        ask = CompletionRequest("/v1/completions", b"", "model", True, blocks * 64 + 256, chain=chain)
        started = time.perf_counter()
        policy.choose(everybody, ask)
        spent.append(time.perf_counter() - started)
    return round(sorted(spent)[times // 2] * 1e6, 1)


def _runs(trace: Sequence[Asked], policies: dict[str, Callable[[EndpointLoads], Policy]], setting: Setting) -> Runs:
    return {name: run(trace, make, setting) for name, make in policies.items()}


def _count(gateways: int) -> str:
    return "1 gateway" if gateways == 1 else f"{gateways} gateways"
