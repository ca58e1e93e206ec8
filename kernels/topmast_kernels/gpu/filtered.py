"""A draw from what top-k, top-p and min-p leave of each row's softmax, without sorting and without a second copy of it.

Up to four launches: bound (one read; ends rows without filters), mass (top-p rows without top-k), collect (ends top-k
rows) and draw. Later ones read only the rows that need them, and only those launches happen whose filters are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from topmast_kernels import partition
from topmast_kernels.gpu.arguments import FLOATS, check_allowed, check_fallback, check_logits, check_out, check_rows
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.gpu.filtered_bound import bound_kernel
from topmast_kernels.gpu.filtered_collect import collect_kernel
from topmast_kernels.gpu.filtered_draw import draw_kernel
from topmast_kernels.gpu.filtered_mass import mass_kernel
from topmast_kernels.gpu.filtered_workspace import FilteredWorkspace
from topmast_kernels.gpu.stats import PINNED, programs_per_row

# Of the later launches no bit depends on the number of threads, for their sums are whole numbers. But all must agree
# on each token's gap to the last bit.
WIDE = {"num_warps": 8, "enable_fp_fusion": False}
SMALL = 128  # candidates that need one number per thread; most top-k rows have fewer


class Filtered(NamedTuple):
    """One entry per row; in a row where nothing is allowed the fallback token, -inf and 0."""

    tokens: Tensor  # int32
    logprobs: Tensor  # float32, natural, under softmax(logits / T) before the filters; of rows with T < 1e-5 at T = 1
    flags: Tensor  # int32: 1 NaN seen, 2 nothing allowed, 4 +inf seen
    kept: Tensor  # int32, how many tokens the filters left, 1 for greedy rows, 0 for rows without an active filter

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> Filtered:
        kinds = (torch.int32, torch.float32, torch.int32, torch.int32)
        return cls(*(torch.empty(rows, dtype=kind, device=device) for kind in kinds))


def sample_filtered(
    logits: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    fallback: int = 0,
    out: Filtered | None = None,
    workspace: FilteredWorkspace | None = None,
    block: int | None = None,
    walk: int | None = None,
) -> Filtered:
    """A token of each row, drawn from what its filters leave: top-k, then top-p, then min-p, in transformers' order.

    logits, seeds, positions, temperature, allowed, vocabulary, fallback, block, walk: as in `sample`, whose token a row
    without an active filter gets, to the bit. None turns a filter off in all rows and saves its launches.

    top_k: int32 [rows]; k tokens stay, of equal logits those with the lowest ids; off where <= 0 or >= vocabulary.
    top_p: float32 [rows]; of what top-k left, a token stays if the mass before it is less than p; off where >= 1.
    min_p: float32 [rows]; a token stays if it is at least min_p times as likely as the likeliest; off where <= 0.
    A row is greedy if T < 1e-5, k = 1 or p <= 0.

    Noise is that of the token's id under any active filter: the token depends on the kept set, its logits, seed and
    position. With `out` and `workspace` nothing is allocated.
    """
    vocabulary = check_logits(logits, vocabulary)
    check_fallback(fallback, vocabulary)
    check_rows("seeds", seeds, torch.int64, logits)
    check_rows("positions", positions, torch.int32, logits)
    check_rows("temperature", temperature, torch.float32, logits)
    check_rows("top_k", top_k, torch.int32, logits)
    check_rows("top_p", top_p, torch.float32, logits)
    check_rows("min_p", min_p, torch.float32, logits)
    words, allowed_stride = check_allowed(allowed, logits)
    block = partition.checked_block(vocabulary, block)
    rows, blocks = logits.shape[0], partition.block_count(vocabulary, block)
    out = Filtered.empty(rows, logits.device) if out is None else out
    check_out(out, rows)
    if workspace is None:
        workspace = FilteredWorkspace.make(rows, vocabulary, device=logits.device, block=block)
    workspace.check(rows, blocks)
    if rows == 0:
        return out

    space, stats = workspace, workspace.stats
    wishes = (logits, allowed, temperature, top_k, top_p, min_p)
    shape = (logits.stride(0), allowed_stride, vocabulary, logits.shape[1], words, blocks)
    lines, grid = block // partition.LINE, (rows * blocks,)
    block_slots, id_bits = triton.next_power_of_2(blocks), (vocabulary - 1).bit_length()
    programs, walk = programs_per_row(rows, blocks, walk)
    bound_kernel[(rows * programs,)](
        *(*wishes, seeds, positions, *out),
        *(space.kinds, space.peaks, space.totals, space.bounds, space.cuts, space.arrivals),
        *(*stats[:4], stats.columns if top_k is not None else None),
        *(*shape, programs, fallback),
        WALK=walk,
        LINES=lines,
        BLOCKS=block_slots,
        **PINNED,
    )
    if top_p is not None:
        mass_kernel[grid](
            *(*wishes, space.kinds, space.peaks),
            *(space.bins, space.limits, space.aboves, space.masses, space.arrivals),
            *shape,
            LINES=lines,
            **WIDE,
        )
    if top_k is not None or top_p is not None:
        slab = space.slab.shape[1]
        collect_kernel[grid](
            *(*wishes, seeds, positions, out.tokens, out.logprobs, out.kept),
            *(space.kinds, space.peaks, space.totals, space.bounds),
            *(space.bins, space.limits, space.aboves, space.cuts),
            *(space.slab, space.taken, space.arrivals),
            *shape,
            SLAB=slab,
            SMALL=min(SMALL, slab),
            ID_BITS=id_bits,
            LINES=lines,
            **WIDE,
        )
    if top_p is not None or min_p is not None:
        draw_kernel[grid](
            *(*wishes, seeds, positions, out.tokens, out.logprobs, out.kept),
            *(space.kinds, space.peaks, space.totals, space.cuts, space.arrivals),
            *(stats.maxima, stats.sums, stats.ids),
            *shape,
            LINES=lines,
            BLOCKS=block_slots,
            **WIDE,
        )
    return out


def compile_cases() -> Iterator[Case]:
    """All four launches for each dtype of the logits, and the two for top-k alone, with a mask."""
    rows = 8
    numbers, wholes = meta((rows,), torch.float32), meta((rows,), torch.int32)
    for dtype in FLOATS:
        logits = meta((rows, 128256), dtype)
        call = partial(sample_filtered, logits, meta((rows,), torch.int64), wholes, temperature=numbers, top_k=wholes)
        wide = ("bound_kernel", "mass_kernel", "collect_kernel", "draw_kernel")
        yield Case(f"all filters {name(dtype)}", partial(call, top_p=numbers, min_p=numbers), wide=wide)
    yield Case("top-k, mask", partial(call, allowed=meta((rows, 4008), torch.int32)), wide=wide[::2])
