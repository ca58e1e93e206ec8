"""Which way of computing is fastest for how many rows on this CPU: measured on a few layers at start, under 0.5 s.

CPUs differ too much for a table: bfloat16 flies on one and crawls on the next, and so does everything else.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from topmast_server.models.kernels import Kernels
from topmast_server.models.llama import Crossover, Llama

_ROWS = (8, 64, 256)
_BUDGET_S = 0.4
_NEVER = 1 << 30
_FEW_ROWS = 64  # above, attention by spans in torch saves more than one compiled call for all layers does


def measure_crossover(model: Llama, kernels: Kernels) -> tuple[Crossover, str]:
    """The numbers of rows from which torch's matmul wins, and a line for the log."""
    projections = [model.attention_in[0], model.mlp_in[-1], model.mlp_out[0]]
    scratch = torch.empty(max(p.rows * p.columns for p in projections))
    deadline = time.perf_counter() + _BUDGET_S
    matmul_from, seen = _NEVER, []
    for rows in _ROWS:
        if time.perf_counter() > deadline:
            break
        compiled = dense = 0.0
        for projection in projections:
            x = torch.from_numpy(np.ones((rows, projection.columns), np.float32))
            out = np.empty((rows, projection.rows), np.float32)
            table = kernels.table(projection)
            compiled += _best_s(lambda x=x, table=table, out=out: kernels.linear(x.numpy(), table, out))
            dense += _best_s(lambda x=x, p=projection: x @ p.dense(kernels, scratch).T)
        seen.append(f"{rows} rows {compiled * 1e3:.1f} against {dense * 1e3:.1f} ms")
        if dense < compiled:
            matmul_from = rows
            break
    choice = Crossover(torch_layers=min(_FEW_ROWS + 1, matmul_from), torch_matmul=matmul_from)
    verdict = "always" if matmul_from == _NEVER else f"below {matmul_from} rows"
    return choice, f"compiled kernels {verdict} (kernels against torch: {'; '.join(seen)})"


def _best_s(call: object) -> float:
    assert callable(call)
    best = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
