"""CPUs without VNNI, without AVX-512 and without AVX2: the same bits."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from blocks import random_rows
from llvmlite import binding

from topmast_kernels.cpu.formats import Format
from topmast_kernels.cpu.linear import linear
from topmast_kernels.cpu.packing import pack
from topmast_kernels.cpu.table import matrix_table


def digests() -> dict[str, str]:
    """What this process computes, by format, rows and rounding; runs in the test and where features are missing."""
    rng = np.random.default_rng(8)
    found = {}
    for kind in Format:
        packed = pack(random_rows(rng, kind, 100, 576), kind, 576)
        for rows in (1, 3, 13):
            x, out = rng.standard_normal((rows, 576)).astype(np.float32), np.empty((rows, 100), np.float32)
            for exact in (True, False):
                linear(x, matrix_table([packed]), exact, 1, out)
                found[f"{kind.name} {rows} {exact}"] = hashlib.sha256(out.tobytes()).hexdigest()
    return found


SCRIPT = """
import test_linear_features
from topmast_kernels.cpu import jit
print(jit.LANES, jit.products_of_bytes())
print(test_linear_features.digests())
"""
# What is left out of this CPU's features, and what the kernels then do.
FEWER = {
    "no vnni": (("vnni",), "16 multiply-add"),
    "avx2": (("512", "avx10", "vnni"), "8 multiply-add"),
    "avx": (("512", "avx10", "avx2", "vnni", "vaes", "vpclmulqdq"), "8 plain arithmetic"),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="forces x86 features")
@pytest.mark.parametrize("fewer", FEWER)
def test_a_cpu_with_fewer_instructions_gives_the_same_bits(fewer: str) -> None:
    host = binding.get_host_cpu_features()
    missing, expected = FEWER[fewer]
    if not host.get("avx512bw" if expected.startswith("16") else "avx2"):
        pytest.skip("this CPU has fewer than that")
    kept = {name: on and not any(part in name for part in missing) for name, on in host.items()}
    environment = os.environ | {
        "NUMBA_CPU_NAME": {"no vnni": "skylake-avx512", "avx2": "haswell", "avx": "bdver2"}[fewer],
        "NUMBA_NUM_THREADS": "1",
        "NUMBA_CPU_FEATURES": ",".join(f"{'+' if on else '-'}{name}" for name, on in kept.items()),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=280
    )
    assert answer.returncode == 0, answer.stderr
    kind, found = answer.stdout.splitlines()
    assert kind == expected
    assert found == str(digests())
