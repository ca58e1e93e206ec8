"""Simulates the gateway's choice of a pod over a trace of prompts, beside other policies: one command.

    python bench/routing.py TRACE              JSON and picture into bench/results/, tables into
                                               docs/reference/routing-measurements.md
    python bench/routing.py TRACE --results D  the same into another folder, docs untouched

TRACE is a file of Mooncake's format: a JSON object a line with timestamp (ms), input_length, output_length, and
hash_ids of 512 tokens each. The picker and the engines' KV book-keeping are the product's own code; only time is
simulated.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs" / "reference" / "routing-measurements.md"
RESULTS = HERE / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="the file to replay")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write into")
    options = parser.parse_args()

    from routing_bench import picture, report, trace

    try:
        asked = trace.read(options.trace)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"cannot read the trace {options.trace}: {error!r}; it must be in Mooncake's format")
    measured = report.measure(asked, options.trace.stem, print)
    path = options.results / f"routing-{options.trace.stem}.json"
    path.write_text(json.dumps(measured, indent=1) + "\n")
    path.with_suffix(".svg").write_text(picture.draw(measured))
    if options.results == RESULTS:
        report.write_table(DOCS, measured)
    print(report.table(measured))
    for bar in measured["bars"]:
        print(f"{'met' if bar['met'] else 'NOT MET':8} {bar['bar']}: {bar['value']:.3f}, at most {bar['most']}")
    print(f"microseconds a choice: {measured['choice_us']}; results in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
