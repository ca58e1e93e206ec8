"""CPUs without AVX-512: the same bits in float32, and a clear answer to who asks for bfloat16."""

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

from topmast_kernels.cpu import linear
from topmast_kernels.cpu.formats import Format


def digests() -> dict[str, str]:
    """What this process computes, by format and rows; runs in the test and in the process with fewer features."""
    rng = np.random.default_rng(8)
    found = {}
    for kind in Format:
        raw = random_rows(rng, kind, 100, 576)
        table = linear.matrix_table([(raw.ctypes.data, kind, len(raw))], 576)
        for rows in (1, 3, 13):
            out = np.empty((rows, len(raw)), np.float32)
            linear.linear(rng.standard_normal((rows, 576)).astype(np.float32), table, out)
            found[f"{kind.name} {rows}"] = hashlib.sha256(out.tobytes()).hexdigest()
    return found


SCRIPT = """
import test_linear_avx2
from topmast_kernels.cpu import jit, linear_bf16
assert jit.LANES == 8 and not jit.HAS_BF16
print(test_linear_avx2.digests())
import numpy as np
try:
    linear_bf16.linear_bf16(np.zeros((1, 32), np.float32), np.zeros((1, 5), np.int64), np.zeros((1, 16), np.float32))
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="forces x86 features")
def test_a_cpu_with_avx2_only_gives_the_same_bits() -> None:
    host = binding.get_host_cpu_features()
    if not host.get("avx2"):
        pytest.skip("this CPU has no AVX2")
    kept = {name: on and "512" not in name and "avx10" not in name for name, on in host.items()}
    features = ",".join(f"{'+' if on else '-'}{name}" for name, on in kept.items())
    environment = os.environ | {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_NUM_THREADS": "1",
        "NUMBA_CPU_FEATURES": features,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=280
    )
    assert answer.returncode == 0, answer.stderr
    found, refusal = answer.stdout.splitlines()
    assert found == str(digests())
    assert "use linear instead" in refusal
