"""Runs scenarios: contestants alternate, servers are kept while the next scenario needs them, results are written."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving_bench import bars, contestants, machine, picture, profile, rates, soak, stress
from serving_bench.contestants import OURS, Contestant
from serving_bench.figures import look_up
from serving_bench.process import Command, Server, StartError, start
from serving_bench.scenario import Scale, Scenario

SCENARIOS = (*rates.SCENARIOS, *stress.SCENARIOS, *profile.SCENARIOS, *soak.SCENARIOS)


class Servers:
    """The running servers, by the command that started them; they wait without work while another one is measured."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[Server] = []
        self._started = 0

    async def get(self, command: Command, *, fresh: bool) -> Server:
        """The one that runs with this command, or a new one."""
        for server in self._running:
            if server.command == command and not fresh and server.process.poll() is None:
                return server
        if fresh:
            self.keep_only([])
        self._started += 1
        self._running.append(await start(command, self._logs / f"server-{self._started}.log"))
        return self._running[-1]

    def keep_only(self, commands: Sequence[Command]) -> None:
        """Stop all others."""
        for server in self._running:
            if server.command not in commands:
                server.stop()
        self._running = [server for server in self._running if server.command in commands]

    def idle_cpu_s(self, busy: Server) -> float:
        """CPU time so far of all but one: what waiting costs the one that is measured."""
        return sum(server.cpu_s() for server in self._running if server is not busy)


async def run(
    chosen: Sequence[Scenario], others: Sequence[Contestant], repeats: int, scale: Scale, folder: Path
) -> list[dict[str, Any]]:
    """Measure, print and write one JSON and one SVG per scenario; returns the reports."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # servers must not outlive us
    reports = []
    with TemporaryDirectory(prefix="topmast-bench-") as logs:
        servers = Servers(Path(logs))
        try:
            for scenario in chosen:
                report = await _one(scenario, others, scenario.repeats or repeats, scale, servers)
                write(report, folder)
                reports.append(report)
        finally:
            servers.keep_only([])
    return reports


async def _one(
    scenario: Scenario, others: Sequence[Contestant], repeats: int, scale: Scale, servers: Servers
) -> dict[str, Any]:
    print(f"\n{scenario.name}: {scenario.about}", flush=True)
    here = machine.describe()
    commands, versions = _who(scenario, others)
    servers.keep_only(list(commands.values()))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    began_s = time.monotonic()
    for number in range(repeats):
        # Forwards and backwards in turn, so that a machine that gets slower or faster favours nobody.
        for name in list(commands)[:: 1 if number % 2 == 0 else -1]:
            figures = await _measure(scenario, commands[name], scale.of(scenario.name, number), servers)
            in_process = next((other.in_process for other in others if other.name == name), None)
            if in_process is not None and scenario.name in ("c1", "prefill512") and "failed" not in figures:
                figures["in_process"] = in_process(scenario.name)
            runs[name].append(figures)
            print(f"  {name:14}", _line(figures), flush=True)
    outcomes = bars.judge(scenario.name, runs, fast_bfloat16=machine.fast_bfloat16())
    for outcome in outcomes:
        print("  bar:", says(outcome), flush=True)
    return {
        "scenario": scenario.name,
        "about": scenario.about,
        "scale": scale.factor,
        "seconds": round(time.monotonic() - began_s, 1),
        "machine": here,
        "contestants": {
            name: {"version": versions[name], "command": command.shown()} for name, command in commands.items()
        },
        "ratios": bars.all_ratios(runs),
        "bars": outcomes,
        "runs": runs,
    }


def _who(scenario: Scenario, others: Sequence[Contestant]) -> tuple[dict[str, Command], dict[str, str]]:
    (mine,) = contestants.get(OURS)
    if scenario.variants is not None:
        commands = scenario.variants()
        return commands, dict.fromkeys(commands, mine.version)
    taking_part = [mine, *(others if scenario.peers else ())]
    commands = {each.name: each.command(scenario.most, scenario.longest) for each in taking_part}
    return commands, {each.name: each.version for each in taking_part}


async def _measure(scenario: Scenario, command: Command, scale: Scale, servers: Servers) -> dict[str, Any]:
    """One repeat of one contestant; a server that cannot start or dies is a result, too."""
    try:
        server = await servers.get(command, fresh=scenario.name == "start")
        idle_s, began_s = servers.idle_cpu_s(server), time.monotonic()
        figures = await scenario.run(server, scale)
    except (StartError, KeyError, ValueError, OSError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[:2000]}
    figures["others_cpu_share"] = round((servers.idle_cpu_s(server) - idle_s) / (time.monotonic() - began_s), 4)
    return derived(figures)


def derived(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures that are made of two others, for the bars."""
    if p50 := figures.get("token_ms", {}).get("p50"):
        figures["decode_tokens_per_s"] = round(1e3 / p50, 2)
    if (target := figures.get("ttft_target_ms")) and (first := figures.get("ttft_ms")):
        figures["ttft_p99_over_target"] = round(first["p99"] / target, 3)
    if (goal := figures.get("itl_goal_ms")) and (gaps := figures.get("gap_beside_prefill_ms")):
        figures["gap_p99_over_goal"] = round(gaps["p99"] / goal, 3)
    return figures


def wrong(report: dict[str, Any]) -> list[str]:
    """What went wrong with ours: failures, errors, and tokens that are missing. A missed bar is no such thing."""
    found = []
    for name, runs in report["runs"].items():
        if OURS not in report["contestants"] or name not in (OURS, "without cache", "batch-invariant"):
            continue
        for figures in runs:
            if "failed" in figures:
                found.append(f"{report['scenario']}, {name}: {figures['failed']}")
            elif figures.get("errors"):
                found.append(f"{report['scenario']}, {name}: {figures['errors']}")
    return found


def write(report: dict[str, Any], folder: Path) -> None:
    """bench/results/serving-CPU-SCENARIO.json and .svg."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"serving-{machine.slug()}-{report['scenario']}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".svg").write_text(picture.draw(report))


def says(outcome: dict[str, Any]) -> str:
    """One line about a bar."""
    if outcome["met"] is None:
        return f"{outcome['text']} {outcome['wanted']}: not measured"
    spread = f"{outcome['median']:g} ({outcome['least']:g} to {outcome['most']:g})"
    return f"{outcome['text']} {outcome['wanted']}: {spread}, {'met' if outcome['met'] else 'NOT met'}"


_SHOWN = (
    ("output_tokens_per_s", "{:.0f} tok/s"),
    ("decode_tokens_per_s", "decode {:.0f} tok/s"),
    ("prefill_tokens_per_s", "prefill {:.0f} tok/s"),
    ("ttft_ms.p50", "TTFT p50 {:.0f} ms"),
    ("ttft_ms.p99", "p99 {:.0f} ms"),
    ("gap_ms.p99", "gap p99 {:.0f} ms"),
    ("first_token_s", "first token after {:.2f} s"),
    ("refused", "{:.0f} refused"),
    ("recovery_s", "recovery {:.1f} s"),
    ("usage.client_share", "client {:.1%} of the server's CPU"),
)


def _line(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return f"failed: {figures['failed'][:300]}"
    shown = [text.format(value) for figure, text in _SHOWN if (value := look_up(figures, figure)) is not None]
    return ", ".join(shown) + (f", errors {figures['errors']}" if figures.get("errors") else "")
