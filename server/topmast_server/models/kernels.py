"""The compiled CPU kernels as a model sees them: present or not yet. Imported only where torch is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topmast_server.models.projection import Projection


@dataclass(slots=True)
class Kernels:
    """Functions of topmast_kernels.cpu, and the matrix tables they read."""

    linear: Callable[..., None]
    dequantise_into: Callable[..., None]
    paged_attention: Callable[..., None]
    store_kv: Callable[..., None]
    forward_rows: Callable[..., None]
    rms_norm: Callable[..., None]
    matrix_table: Callable[..., NDArray[np.int64]]
    _tables: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def table(self, projection: Projection) -> NDArray[np.int64]:
        """The projection's matrix table; valid while the projection lives."""
        key = id(projection)
        if key not in self._tables:
            matrices = [(m.raw.ctypes.data, m.format, m.rows) for m in projection.matrices]
            self._tables[key] = self.matrix_table(matrices, projection.columns)
        return self._tables[key]


def load_kernels() -> Kernels:
    """Import and load every kernel: half a second with a complete cache, else some 20 s of compiling."""
    from topmast_kernels.cpu import attention, compile, decoder, linear

    compile.load_all()
    functions: dict[str, Any] = {
        "linear": linear.linear,
        "dequantise_into": linear.dequantise_into,
        "paged_attention": attention.paged_attention,
        "store_kv": attention.store_kv,
        "forward_rows": decoder.forward_rows,
        "rms_norm": decoder.rms_norm,
        "matrix_table": linear.matrix_table,
    }
    return Kernels(**functions)
