"""From how many rows on bfloat16 products beat exact ones on this CPU: measured on a layer at the first start.

CPUs differ too much for a table: bfloat16 flies on one, the next one does not have it. The answer lies beside the
compiled kernels for the next start of the same model, which saves it up to half a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from topmast_kernels.cpu import cache
from topmast_server.models.kernels import Kernels
from topmast_server.models.llama import Llama
from topmast_server.models.projection import Projection

_ROWS = (64, 32, 16, 8, 4, 2)  # downwards, until the exact product wins
_BUDGET_S = 0.4


def known_bf16_rows(model: Llama, kernels: Kernels) -> tuple[int, str]:
    """What an earlier start measured here with these shapes and threads, else `measure_bf16_rows`, kept."""
    folder = cache.cache_folder()
    if folder is None:
        return measure_bf16_rows(model, kernels)
    place = folder / f"bf16-{_measured_on(model, kernels)}.json"
    try:
        told = json.loads(place.read_text())
        return int(told["bf16_rows"]), str(told["note"])
    except (OSError, ValueError, TypeError, KeyError):
        rows, note = measure_bf16_rows(model, kernels)
    _keep(place, {"bf16_rows": rows, "note": note})
    return rows, note


def _measured_on(model: Llama, kernels: Kernels) -> str:
    """Everything that the measurement depends on; the folder stands for the kernels' sources."""
    shapes = [(p.rows, p.columns, [m.format.name for m in p.matrices]) for p in _measured(model)]
    key = (cache.cpu_kind(), kernels.threads, kernels.linear_bf16 is not None, shapes)
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


def measure_bf16_rows(model: Llama, kernels: Kernels) -> tuple[int, str]:
    """The number of rows from which bfloat16 products win (0: they never do), and a line for the log."""
    if kernels.linear_bf16 is None:
        return 0, "exact products always: this CPU has no bfloat16 products"
    deadline = time.perf_counter() + _BUDGET_S
    chosen, seen = 0, []
    for rows in _ROWS:
        if time.perf_counter() > deadline:
            break
        exact, rounded = (_layer_s(call, model, kernels, rows) for call in (kernels.linear, kernels.linear_bf16))
        seen.append(f"{rows} rows {rounded * 1e3:.2f} against {exact * 1e3:.2f} ms")
        if rounded >= exact:
            break
        chosen = rows
    verdict = f"from {chosen} rows on" if chosen else "never"
    return chosen, f"bfloat16 products {verdict} (against exact ones: {'; '.join(seen)})"


def _layer_s(call: Callable[..., None], model: Llama, kernels: Kernels, rows: int) -> float:
    """Seconds for most of a layer's products; the better of two tries."""
    total = 0.0
    for projection in _measured(model):
        x = np.ones((rows, projection.columns), np.float32)
        out = np.empty((rows, projection.rows), np.float32)
        table, best = kernels.table(projection), float("inf")
        for _ in range(2):
            started = time.perf_counter()
            call(x, table, out)
            best = min(best, time.perf_counter() - started)
        total += best
    return total
