"""Which way of computing is fastest for how many rows on this CPU: measured on a few layers at the first start.

CPUs differ too much for a table: bfloat16 flies on one and crawls on the next, and so does everything else. The
answer lies beside the compiled kernels for the next start of the same model, which saves it up to half a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from topmast_kernels.cpu import cache
from topmast_server.models.kernels import Kernels
from topmast_server.models.llama import Crossover, Llama
from topmast_server.models.projection import Projection

_ROWS = (8, 64, 256)
_BUDGET_S = 0.4
_NEVER = 1 << 30
_FEW_ROWS = 64  # above, attention by spans in torch saves more than one compiled call for all layers does


def known_crossover(model: Llama, kernels: Kernels) -> tuple[Crossover, str]:
    """What an earlier start measured here with these shapes, threads and libraries, else `measure_crossover`, kept."""
    folder = cache.cache_folder()
    if folder is None:
        return measure_crossover(model, kernels)
    place = folder / f"crossover-{_measured_on(model)}.json"
    try:
        told = json.loads(place.read_text())
        return Crossover(int(told["torch_layers"]), int(told["torch_matmul"])), str(told["note"])
    except (OSError, ValueError, TypeError, KeyError):
        crossover, note = measure_crossover(model, kernels)
    _keep(place, {"torch_layers": crossover.torch_layers, "torch_matmul": crossover.torch_matmul, "note": note})
    return crossover, note


def _measured_on(model: Llama) -> str:
    """Everything that the measurement depends on; the folder stands for the kernels' sources."""
    shapes = [(p.rows, p.columns, [m.format.name for m in p.matrices]) for p in _measured(model)]
    key = (cache.cpu_kind(), torch.__version__, torch.get_num_threads(), str(model.dtype), shapes)
    return hashlib.sha256(repr(key).encode()).hexdigest()[:12]


def _keep(place: Path, told: dict[str, object]) -> None:
    fresh = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(told))
        fresh.replace(place)
    except OSError:
        pass  # a full or read-only disk costs the next start half a second, nothing more


def _measured(model: Llama) -> list[Projection]:
    return [model.attention_in[0], model.mlp_in[-1], model.mlp_out[0]]


def measure_crossover(model: Llama, kernels: Kernels) -> tuple[Crossover, str]:
    """The numbers of rows from which torch's matmul wins, and a line for the log."""
    projections = _measured(model)
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
