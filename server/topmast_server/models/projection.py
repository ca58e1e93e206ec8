"""One linear layer, or several that share their input, and the fastest way to compute it for a number of rows.

Two ways give the same float32 product up to rounding: the compiled kernels on the weights as stored, and torch's matmul
on dequantised weights. Which one wins depends on the CPU and on the rows, so it is measured (engine/measure.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from topmast_kernels.cpu.formats import Format
from topmast_server.weights.matrix import Matrix, float_matrix

if TYPE_CHECKING:
    from topmast_server.models.kernels import Kernels

_MIN_COMPILED_ROWS, _COLUMN_STEP = 16, 32  # what linear.py's tiles need


class Projection:
    """y = [W1; W2; ...] x for matrices with the same number of columns."""

    def __init__(self, matrices: list[Matrix], dtype: torch.dtype) -> None:
        self.columns = matrices[0].columns
        self.rows = sum(matrix.rows for matrix in matrices)
        if dtype != torch.float32 or any(matrix.format is Format.F32 for matrix in matrices):
            # Plain floats: one dense matrix, of which the compiled kernels see a view.
            values = np.concatenate([m.dense() for m in matrices]) if len(matrices) > 1 else matrices[0].dense()
            matrices = [float_matrix(values)]
            self._dense: torch.Tensor | None = torch.from_numpy(values).to(dtype)
            self._keep_dense = True
        else:
            self._dense, self._keep_dense = None, False
        self.matrices = matrices
        self.compilable = (
            dtype == torch.float32
            and self.columns % _COLUMN_STEP == 0
            and all(matrix.rows >= _MIN_COMPILED_ROWS for matrix in matrices)
        )

    def dense(self, kernels: Kernels | None, scratch: torch.Tensor) -> torch.Tensor:
        """The float weights [rows, columns]; in `scratch` where the kernels can put them there fast."""
        if self._dense is not None:
            return self._dense
        if kernels is not None and self.compilable:
            values = scratch[: self.rows * self.columns].view(self.rows, self.columns)
            kernels.dequantise_into(kernels.table(self), values.numpy())
            return values
        # Until the kernels are compiled: dequantise once, keep it for the next steps.
        self._dense = torch.from_numpy(np.concatenate([matrix.dense() for matrix in self.matrices]))
        return self._dense

    def release_dense(self) -> None:
        """Forget what `dense` kept while there were no kernels."""
        if not self._keep_dense:
            self._dense = None
