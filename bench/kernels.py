"""Measures Topmast's kernels, and others beside them, on the GPU of this machine: one command.

    python bench/kernels.py                     all of it in --time-budget seconds; bench/results/kernels-GPU.json, .svg
    python bench/kernels.py --only softmax      one operation
    python bench/kernels.py --soak              100000 back-to-back calls on two streams, results and counters compared
    python bench/kernels.py --sanitize          one small case of each kernel under compute-sanitizer
    python bench/kernels.py --resources         registers, stack and load widths from the compiler; needs no GPU
    python bench/kernels.py --cpu-smoke         tiny, in Triton's interpreter, to see that the benchmark itself works

A contestant whose result is wrong is named and gets no time; one that is not installed is named, too.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Works in a checkout where nothing is installed but torch, as on a borrowed GPU.
PACKAGE = Path(__file__).resolve().parents[1] / "kernels"
sys.path.insert(0, str(PACKAGE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH", "")]))

if "--cpu-smoke" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton loads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="operations, by the beginning of their names")
    parser.add_argument("--time-budget", type=float, default=480.0, help="seconds; what does not fit is named")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder to write into")
    for mode in ("soak", "sanitize", "resources", "cpu-smoke", "one-of-each"):
        parser.add_argument(f"--{mode}", action="store_true")
    options = parser.parse_args()
    if options.resources:
        from kernel_bench import resources

        return resources.write(options.results)
    if options.sanitize:
        from kernel_bench import soak

        return soak.sanitize(Path(__file__))

    import torch

    if not options.cpu_smoke and not torch.cuda.is_available():
        print("There is no GPU here. --resources and --cpu-smoke work without one.", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.cpu_smoke else "cuda")
    from kernel_bench import run, soak

    if options.soak:
        return soak.soak(device)
    if options.one_of_each:
        return run.one_of_each(device)
    return run.run(device, options.only, options.time_budget, options.results)


if __name__ == "__main__":
    sys.exit(main())
