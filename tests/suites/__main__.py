"""All suites, side by side where that is sound: `make test` runs this.

python -m suites                                   stops at the first step that fails
python -m suites --keep-going --second-try         as .ci/run wants it
python -m suites test-server test-gateway          some steps of the plan
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from suites.plan import STEPS, chosen
from suites.report import report
from suites.runner import Runner
from suites.running import end_by_interrupt

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """0 where every step has passed, with the help of second tries or without."""
    targets = [step.target for step in STEPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets)}; default: all")
    parser.add_argument("--keep-going", action="store_true", help="run the other steps when one has failed")
    parser.add_argument(
        "--second-try", action="store_true", help="run failed tests once more, alone; who passes then is called FLAKY"
    )
    options = parser.parse_args()
    if unknown := set(options.targets) - set(targets):
        parser.error(f"there is no step {', '.join(sorted(unknown))}; there are {', '.join(targets)}")
    end_by_interrupt()
    began_s = time.monotonic()
    runner = Runner(chosen(STEPS, options.targets or targets), ROOT, ROOT / "build" / "tests")
    try:
        runner.run(keep_going=options.keep_going)
        if options.second_try:
            runner.try_again()
    except KeyboardInterrupt:
        print("--> interrupted; what ran was ended", flush=True)
        return 130
    print("\n".join(report(runner.results, runner.waiting, time.monotonic() - began_s)), flush=True)
    return 0 if not runner.waiting and all(result.passed for result in runner.results) else 1


if __name__ == "__main__":
    sys.exit(main())
