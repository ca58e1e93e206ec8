"""Measures `topmast gateway` on this machine, in front of an engine that costs next to nothing: one command.

    python bench/gateway.py                         all scenarios, three repeats; JSON into bench/results/
    python bench/gateway.py --only throughput       some of them, by name: no JSON
    python bench/gateway.py --quick                 everything scaled down, seconds: does it still work?
    python bench/gateway.py --profile               where the time of an event and of a request goes
    python bench/gateway.py --storm 10              minutes of faults of engines, gateways, API server; JSON, too
    python bench/gateway.py --neighbour 3           a key that asks ten times its share beside another, so many turns
    python bench/gateway.py --table                 write docs/performance.md's table from bench/results/

Clients, engine and gateway share this machine's cores; the load is bounded and goes to 127.0.0.0/8 only. It needs the
control plane's programs (`make binaries`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs" / "performance.md"
QUICK = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="SCENARIO", help="by name")
    parser.add_argument("--repeats", type=int, default=3, help="of every scenario (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="fewer requests, shorter times (%(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"one repeat at scale {QUICK}, no results")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write into")
    parser.add_argument("--profile", action="store_true", help="profile the busy runs and measure nothing")
    parser.add_argument("--storm", type=float, metavar="MINUTES", help="faults of all kinds, with real engines")
    parser.add_argument("--engines", type=int, default=3, help="of the storm (%(default)s)")
    parser.add_argument("--per-s", type=float, default=4.0, help="requests of the storm (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the storm (%(default)s)")
    parser.add_argument("--neighbour", type=int, metavar="TURNS", help="a noisy key beside a quiet one, real engine")
    parser.add_argument("--table", action="store_true", help="write the table and measure nothing")
    options = parser.parse_args()
    if not 0 < options.scale <= 1 or options.repeats < 1:
        parser.error("--scale is above 0 and at most 1, --repeats is at least 1")
    if options.table:
        from gateway_bench import table

        table.write(DOCS, options.results)
        return 0
    if options.profile:
        from gateway_bench import profile

        print(profile.show(options.scale))
        return 0
    if options.storm:
        return weather(options)
    if options.neighbour:
        return beside(options)
    from gateway_bench.scenarios import SCENARIOS

    if unknown := [name for name in options.only if name not in SCENARIOS]:
        parser.error(f"there is no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return measure(options)


def weather(options: argparse.Namespace) -> int:
    """Returns 0, or 1 where a client noticed more than time and killed gateways, or an account does not add up."""
    from gateway_bench import storm
    from serving_bench import machine

    here = machine.describe()
    figures = storm.run(options.storm, options.engines, options.per_s, options.seed)
    print(json.dumps(figures, indent=1))
    path = options.results / f"storm-{machine.slug()}.json"
    path.write_text(json.dumps({"machine": here, **figures}, indent=1) + "\n")
    return 0 if figures["clean"] else 1


def beside(options: argparse.Namespace) -> int:
    """Returns 0; the ratio speaks for itself."""
    from gateway_bench import neighbour
    from serving_bench import machine

    here = machine.describe()
    figures = neighbour.run(options.neighbour, options.seed)
    print(json.dumps(figures, indent=1))
    path = options.results / f"neighbour-{machine.slug()}.json"
    path.write_text(json.dumps({"machine": here, **figures}, indent=1) + "\n")
    return 0


def measure(options: argparse.Namespace) -> int:
    """Returns 0, or 1 where a stream ended or a body was taken; a bar that is missed is printed, and is no failure."""
    import uvloop
    from gateway_bench import bars, front
    from gateway_bench.scenarios import SCENARIOS
    from serving_bench import machine

    repeats, scale = (1, min(options.scale, QUICK)) if options.quick else (options.repeats, options.scale)
    here = machine.describe()
    runs: dict[str, list[dict]] = {name: [] for name in options.only or SCENARIOS}
    with front.control_plane() as stage, front.running(stage) as gateway:
        for _ in range(repeats):
            for name in runs:
                runs[name].append(uvloop.run(SCENARIOS[name](gateway, scale)))
                print(name, json.dumps(runs[name][-1]), flush=True)
    verdicts, wrong = bars.judge(runs), bars.wrong(runs)
    for bar in verdicts:
        print(f"{bar['text']}: {bar['median']:g}, wanted {bar['wanted']}: {'met' if bar['met'] else 'NOT MET'}")
    print(*(f"WRONG: {line}" for line in wrong), sep="\n", end="\n" if wrong else "")
    if not options.quick and not options.only:
        path = options.results / f"gateway-{machine.slug()}.json"
        report = {"machine": here, "scale": scale, "bars": verdicts, "runs": runs}
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"results in {path}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
