"""Scratch memory of the filtered sampler: what its launches leave for one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topmast_kernels import partition
from topmast_kernels.gpu.filtered_mass import BINS
from topmast_kernels.gpu.stats import Stats

SLAB = 2048  # candidates of a row that are finished without reading the row again; enough for a top-k of 1024


@dataclass(frozen=True)
class FilteredWorkspace:
    """For one call at a time, on one stream; the next call may follow at once. Made for so many rows, or fewer.

    About 29 KB for a row with 128k tokens.
    """

    arrivals: Tensor  # int32 [rows]: zero between calls
    taken: Tensor  # int32 [rows]: zero between calls; slots of the slab that are taken
    masses: Tensor  # int64 [rows, BINS]: zero between calls
    kinds: Tensor  # int32 [rows], of `filters`
    peaks: Tensor  # float32 [rows], greatest logit
    totals: Tensor  # float32 [rows], sum of exp((logit - peak) / T)
    bounds: Tensor  # float32 [rows], logit that candidates of a top-k row reach
    bins: Tensor  # int32 [rows], the bin that completes the nucleus
    limits: Tensor  # int64 [rows], the mass at which the nucleus is complete
    aboves: Tensor  # int64 [rows], the mass of all bins before that one
    cuts: Tensor  # int64 [rows], key of the last token kept
    slab: Tensor  # int64 [rows, size], keys of candidates
    stats: Stats  # with ids and columns; sums and ids also hold the draws of blocks, later

    @classmethod
    def make(
        cls, rows: int, vocabulary: int, *, device: torch.device | str, block: int | None = None, slab: int = SLAB
    ) -> FilteredWorkspace:
        """vocabulary: valid tokens per row. slab: a power of two >= 16; a smaller one costs time, no bit."""
        if slab < 16 or slab & (slab - 1):
            raise ValueError(f"slab={slab}: give a power of two of at least 16, as {SLAB}")
        device = torch.device(device)
        blocks = partition.block_count(vocabulary, partition.checked_block(vocabulary, block))

        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros((rows, *shape), dtype=dtype, device=device)

        def empty(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty((rows, *shape), dtype=dtype, device=device)

        return cls(
            arrivals=zeros(torch.int32),
            taken=zeros(torch.int32),
            masses=zeros(torch.int64, BINS.value),
            kinds=empty(torch.int32),
            peaks=empty(torch.float32),
            totals=empty(torch.float32),
            bounds=empty(torch.float32),
            bins=empty(torch.int32),
            limits=empty(torch.int64),
            aboves=empty(torch.int64),
            cuts=empty(torch.int64),
            slab=empty(torch.int64, slab),
            stats=Stats.empty(rows, blocks, device, ids=True, columns=True),
        )

    def check(self, rows: int, blocks: int) -> None:
        """ValueError unless it is large enough and made for rows of `blocks` blocks."""
        have = self.stats.maxima.shape
        if have[0] < rows or have[1] != blocks:
            raise ValueError(
                f"the workspace is for {have[0]} rows of {have[1]} blocks; make one for {rows} rows of {blocks}"
            )
