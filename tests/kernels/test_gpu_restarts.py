"""The same bits from one process to the next: nothing depends on addresses, hashes or what ran before."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from filtered_rows import parameters
from oracle_vocabulary import Filters

from topmast_kernels.gpu.filtered import sample_filtered
from topmast_kernels.gpu.logprobs import logprobs
from topmast_kernels.gpu.sample import sample
from topmast_kernels.gpu.softmax import softmax

ROWS, VOCABULARY, BLOCK = 4, 300, 128


def digest() -> str:
    """SHA-256 of what the vocabulary-wide kernels give for one batch."""
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.standard_normal((ROWS, VOCABULARY)).astype(np.float32) * 3)
    seeds, positions = torch.arange(ROWS) + 7, torch.arange(ROWS, dtype=torch.int32)
    wishes = parameters([Filters(0.8, top_k=40, top_p=0.9)] * ROWS)
    found = [
        softmax(logits, block=BLOCK),
        *logprobs(logits, positions, top_n=3, block=BLOCK),
        *sample(logits, seeds, positions, block=BLOCK),
        *sample_filtered(logits, seeds, positions, **wishes, block=BLOCK),
    ]
    return hashlib.sha256(b"".join(each.numpy().tobytes() for each in found if each is not None)).hexdigest()


SCRIPT = """
import quick_interpreter, test_gpu_restarts
quick_interpreter.install()
print(test_gpu_restarts.digest())
"""


def test_a_new_process_gives_the_same_bits() -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    elsewhere = [
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert elsewhere == [digest()] * 2
