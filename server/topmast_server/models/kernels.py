"""The compiled CPU kernels as a model sees them: present or not yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from topmast_server.models.projection import Projection


@dataclass(slots=True)
class Kernels:
    """Functions of topmast_kernels.cpu."""

    linear: Callable[..., None]
    linear_bf16: Callable[..., None] | None  # None: this CPU has no such products
    forward: Callable[..., None]
    weights: Callable[..., Any]
    new_scratch: Callable[..., Any]
    matrix_table: Callable[..., NDArray[Any]]
    threads: int

    def table(self, projection: Projection) -> NDArray[Any]:
        """The projection's matrix table; valid while the projection lives."""
        matrices = [(m.raw.ctypes.data, m.format, m.rows) for m in projection.matrices]
        return self.matrix_table(matrices, projection.columns)


def load_kernels() -> Kernels:
    """Import and load every kernel: half a second with a complete cache, else half a minute of compiling."""
    import numba

    from topmast_kernels.cpu import compile, decoder, linear, linear_bf16
    from topmast_kernels.cpu.jit import HAS_BF16

    compile.load_all()
    return Kernels(
        linear=linear.linear,
        linear_bf16=linear_bf16.linear_bf16 if HAS_BF16 else None,
        forward=decoder.forward,
        weights=decoder.Weights,
        new_scratch=decoder.new_scratch,
        matrix_table=linear.matrix_table,
        threads=numba.get_num_threads(),
    )
