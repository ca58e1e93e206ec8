"""One linear layer, or several that share their input: the weights as stored, for the compiled kernels.

Until those are compiled, and for shapes that they do not take, torch multiplies with the dequantised weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from topmast_kernels.cpu.formats import Format
from topmast_server.models.precision import Precision
from topmast_server.weights.matrix import Matrix, float_matrix

if TYPE_CHECKING:
    import torch

_MIN_COMPILED_ROWS, _COLUMN_STEP = 16, 32  # what linear.py's tiles need


class Projection:
    """y = [W1; W2; ...] x for matrices with the same number of columns."""

    def __init__(self, matrices: list[Matrix], dtype: Precision) -> None:
        self.columns = matrices[0].columns
        self.rows = sum(matrix.rows for matrix in matrices)
        floats = len(matrices) > 1 and any(matrix.format is Format.F32 for matrix in matrices)
        if dtype is not Precision.FLOAT32 or floats:
            matrices = [float_matrix(np.concatenate([matrix.dense() for matrix in matrices]))]
        self.matrices = matrices
        self._dtype = dtype
        self._dense: torch.Tensor | None = None
        self.compilable = (
            dtype is Precision.FLOAT32
            and self.columns % _COLUMN_STEP == 0
            and all(matrix.rows >= _MIN_COMPILED_ROWS for matrix in matrices)
        )

    def dense(self) -> torch.Tensor:
        """The float weights [rows, columns], for the time before there are kernels: dequantised once, then kept."""
        import torch

        if self._dense is None:
            parts = [matrix.dense() for matrix in self.matrices]
            values = parts[0] if len(parts) == 1 else np.concatenate(parts)
            self._dense = torch.from_numpy(values).to(self._dtype.as_torch)
        return self._dense

    def give_up(self) -> list[Matrix]:
        """The matrices, for the last time: the kernels have their own copies, and nobody shall keep these."""
        matrices, self.matrices, self._dense = self.matrices, [], None
        return matrices
