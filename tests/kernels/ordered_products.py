"""Products in Triton's interpreter whose bits depend on nothing but their operands.

The interpreter multiplies with NumPy, and NumPy with a BLAS that picks the order of its sums by the matrix's shape and
by the CPU. On a GPU a tile's row has the same bits wherever in the tile it lies; kernels promise that and tests ask for
it, so it must hold in the interpreter as well, on every CPU.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def install() -> None:
    """Replaces `tl.dot` in the interpreter; called once, before the first kernel runs."""
    from triton.runtime import interpreter

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        return interpreter.TensorHandle(ordered_product(a.data, b.data) + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = create_dot


def ordered_product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """a [m, k] @ b [k, n], summed in float64 from the first k to the last and rounded once.

    Products of two float32 are exact in float64, so that it does not matter whether a CPU fuses them with the addition.
    TypeError for other dtypes: gpu/common.py widens operands before it multiplies.
    """
    if a.dtype != np.float32 or b.dtype != np.float32:
        raise TypeError(f"operands are {a.dtype} and {b.dtype}; multiply with topmast_kernels.gpu.common.dot")
    return _sum_in_order(np.ascontiguousarray(a), np.ascontiguousarray(b))  # type: ignore[no-any-return]


@numba.njit("float32[:, ::1](float32[:, ::1], float32[:, ::1])")
def _sum_in_order(a, b):  # type: ignore[no-untyped-def]
    out = np.zeros((a.shape[0], b.shape[1]), np.float64)
    for row in range(a.shape[0]):
        for k in range(a.shape[1]):
            left = np.float64(a[row, k])
            for column in range(b.shape[1]):
                out[row, column] += left * np.float64(b[k, column])
    return out.astype(np.float32)
