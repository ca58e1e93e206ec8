"""The compiled CPU kernels as a model sees them: present or not yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from topmast_server.models.lazy_memory import lazy_zeros
from topmast_server.weights.matrix import Matrix

if TYPE_CHECKING:
    from topmast_kernels.cpu.packing import Packed

_ALIGNED: Final = 64  # a cache line


@dataclass(slots=True)
class Kernels:
    """Functions of topmast_kernels.cpu."""

    forward: Callable[..., None]
    weights: Callable[..., Any]
    new_scratch: Callable[..., Any]
    pack: Callable[..., Packed]
    packed_bytes: Callable[..., int]
    matrix_table: Callable[[list[Packed]], NDArray[np.int64]]
    threads: int
    products: str  # how bytes are multiplied, for the log

    def packed(self, matrices: Iterable[Matrix]) -> list[Packed]:
        """Copies in the order in which the kernels read them, one after the other in huge pages where there are any."""
        matrices = list(matrices)
        sizes = [self.packed_bytes(matrix.format, matrix.rows, matrix.columns) for matrix in matrices]
        places = list(accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0))
        memory = lazy_zeros(places[-1])
        return [
            self.pack(matrix.raw, matrix.format, matrix.columns, memory[place : place + size])
            for matrix, place, size in zip(matrices, places, sizes, strict=False)
        ]


def load_kernels() -> Kernels:
    """Import and load every kernel: half a second with a complete cache, else half a minute of compiling."""
    import numba

    from topmast_kernels.cpu import compile, decoder, packing, table
    from topmast_kernels.cpu.jit import products_of_bytes

    compile.load_all()
    return Kernels(
        forward=decoder.forward,
        weights=decoder.Weights,
        new_scratch=decoder.new_scratch,
        pack=packing.pack,
        packed_bytes=packing.packed_bytes,
        matrix_table=table.matrix_table,
        threads=numba.get_num_threads(),
        products=products_of_bytes(),
    )
