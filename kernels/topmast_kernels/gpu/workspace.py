"""Scratch memory of the kernels whose last program of a row finishes the row, and how that program is known.

Nobody waits for anybody: each program counts itself once its partials are stored, and the one that sees all others
counted does the rest. So it cannot hang, however few programs run at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels import partition
from topmast_kernels.gpu.stats import Stats


@dataclass(frozen=True)
class Workspace:
    """For one call at a time, on one stream; the next call may follow at once. Made for so many rows, or fewer."""

    arrivals: Tensor  # int32 [rows]: zero between calls
    stats: Stats  # with ids
    counts: Tensor  # int32 [rows, S]
    keys: Tensor | None  # int64 [rows, S, 64]

    @classmethod
    def make(
        cls, rows: int, vocabulary: int, *, device: torch.device | str, block: int | None = None, top_n: bool = False
    ) -> Workspace:
        """vocabulary: valid tokens per row. top_n: also for `logprobs` with top_n > 0, 512 more bytes per block."""
        device = torch.device(device)
        blocks = partition.block_count(vocabulary, partition.checked_block(vocabulary, block))
        return cls(
            torch.zeros(rows, dtype=torch.int32, device=device),
            Stats.empty(rows, blocks, device, ids=True, columns=False),
            torch.empty((rows, blocks), dtype=torch.int32, device=device),
            torch.empty((rows, blocks, partition.LINE), dtype=torch.int64, device=device) if top_n else None,
        )

    def check(self, rows: int, blocks: int, *, top_n: bool = False) -> None:
        """ValueError unless it is large enough and made for rows of `blocks` blocks."""
        have = self.stats.maxima.shape
        if have[0] < rows or have[1] != blocks or (top_n and self.keys is None):
            for_top = "" if self.keys is None else " and top n"
            raise ValueError(
                f"the workspace is for {have[0]} rows of {have[1]} blocks{for_top}; "
                f"make one for {rows} rows of {blocks}{' with top_n=True' if top_n else ''}"
            )


@triton.jit
def arrive(arrival, programs):
    """Whether this program is the last of `programs` to come here for a row; then all their stores are visible to it.

    arrival: pointer to the row's int32 counter, which the last one sets back to 0 for the next call.
    """
    tl.debug_barrier()  # the stores of all this program's threads come before the count
    last = tl.atomic_add(arrival, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.store(arrival, 0)
    return last
