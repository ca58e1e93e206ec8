"""What a model is given for one step: rows of tokens, and where each row's sequence keeps its KV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Span:
    """Adjacent rows of one sequence: `count` tokens from position `start`."""

    row: int  # the first row
    start: int
    count: int
    table: int  # line of Batch.tables


@dataclass(frozen=True, slots=True)
class Batch:
    """M rows of S sequences. Spans are in row order and cover all rows."""

    tokens: NDArray[np.int64]  # [M]
    positions: NDArray[np.int64]  # [M]
    spans: list[Span]
    tables: NDArray[np.int32]  # [S, blocks]: ids of KV blocks, padded with 0
    sampled_rows: NDArray[np.int64]  # rows whose logits are wanted, ascending

    @property
    def rows(self) -> int:
        """M."""
        return len(self.tokens)

    def span_table(self) -> NDArray[np.int64]:
        """[S, 4]: row, start, count and table of each span."""
        return np.array([(span.row, span.start, span.count, span.table) for span in self.spans], np.int64)

    def tables_by_row(self) -> NDArray[np.int32]:
        """[M, blocks]."""
        return np.repeat(self.tables[[span.table for span in self.spans]], [span.count for span in self.spans], axis=0)
