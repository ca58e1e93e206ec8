"""Measures `topmast serve`, and other servers beside it, on this machine: one command.

    python bench/serving.py                              all scenarios but soak, ours alone
    python bench/serving.py --peers vllm,llama.cpp       the same with peers; the first time installs and builds them
    python bench/serving.py --only c32 prefill512        some scenarios, by name
    python bench/serving.py --quick                      everything scaled down, under a minute, ours alone
    python bench/serving.py --list                       what the scenarios are
    python bench/serving.py --table                      write docs/performance.md's tables from bench/results/

Client and servers share this machine's cores; the load is bounded and goes to 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs" / "performance.md"
QUICK = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", metavar="NAMES", help="vllm,llama.cpp: which take part beside ours")
    parser.add_argument("--only", nargs="+", default=[], metavar="SCENARIO", help="by name; see --list")
    parser.add_argument("--repeats", type=int, default=3, help="of every scenario and contestant (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and arrivals (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="fewer requests, shorter times (%(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"one repeat at scale {QUICK}, into a temporary folder")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write into")
    parser.add_argument("--list", action="store_true", help="the scenarios")
    parser.add_argument("--table", action="store_true", help="write the tables and measure nothing")
    options = parser.parse_args()
    if not 0 < options.scale <= 1 or options.repeats < 1:
        parser.error("--scale is above 0 and at most 1, --repeats is at least 1")

    from serving_bench import install, table

    if options.table:
        table.write(DOCS, options.results)
        return 0
    from serving_bench import contestants, run

    names = {scenario.name: scenario for scenario in run.SCENARIOS}
    if options.list:
        print(*(f"{name:12} {scenario.about}" for name, scenario in names.items()), sep="\n")
        return 0
    if unknown := [name for name in options.only if name not in names]:
        parser.error(f"there is no scenario {', '.join(unknown)}; there are {', '.join(names)}")
    usual = [name for name in names if name != "soak" or options.quick]  # it takes minutes: ask for it
    chosen = [names[name] for name in options.only or usual]
    try:
        others = [setting for name in options.peers.split(",") if name for setting in contestants.get(name)]
    except install.InstallError as error:
        parser.error(str(error))
    return measure(chosen, others, options)


def measure(chosen: list, others: list, options: argparse.Namespace) -> int:
    """Returns 0, or 1 where ours failed or gave wrong answers; a bar that is missed is printed, and is no failure."""
    import asyncio
    import contextlib
    import tempfile

    import uvloop
    from serving_bench import run
    from serving_bench.scenario import Scale

    with contextlib.ExitStack() as stack:
        folder, repeats, factor = options.results, options.repeats, options.scale
        if options.quick:
            folder, repeats = Path(stack.enter_context(tempfile.TemporaryDirectory())), 1
            factor = min(factor, QUICK)
        scale = Scale(factor, options.seed)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            reports = runner.run(run.run(chosen, others, repeats, scale, folder))
    missed = sum(bar["met"] is False for report in reports for bar in report["bars"])
    met = sum(bar["met"] is True for report in reports for bar in report["bars"])
    wrong = [line for report in reports for line in run.wrong(report)]
    print(f"\n{met} bars met, {missed} not met" + ("" if options.quick else f"; results in {folder}"))
    print(*(f"WRONG: {line}" for line in wrong), sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
