"""Measures `topmast operator` with a thousand models among five thousand pods of others: one command.

    python bench/operator_scale.py                          all of it; JSON into bench/results/
    python bench/operator_scale.py --models 50 --foreign 100 --idle-s 20      smaller: no JSON

etcd, API server, controllers and scheduler are real and share this machine with the operator; nodes are played, and
each engine is a socket that answers `/state`. It needs the control plane's programs (`make binaries`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS, FOREIGN = 1000, 5000


def main() -> int:
    """Returns 0 where every bar was met or the run was a smaller one, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=MODELS, help="(%(default)s)")
    parser.add_argument("--foreign", type=int, default=FOREIGN, help="pods of others (%(default)s)")
    parser.add_argument("--idle-s", type=float, default=120.0, help="how long to look at it idle (%(default)s)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write into")
    options = parser.parse_args()
    from operator_bench import run
    from serving_bench import machine

    here = machine.describe()
    figures = run.measure(options.models, options.foreign, options.idle_s)
    verdicts = run.bars(figures)
    for bar in verdicts:
        print(f"{bar['text']}: {bar['value']:g}, at most {bar['most']:g}: {'met' if bar['met'] else 'NOT MET'}")
    if (options.models, options.foreign) != (MODELS, FOREIGN):
        return 0
    path = options.results / f"operator-{machine.slug()}.json"
    path.write_text(json.dumps({"machine": here, "bars": verdicts, **figures}, indent=1) + "\n")
    print(f"results in {path}")
    return 0 if all(bar["met"] for bar in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
