"""Twin of `topmast_kernels.gpu.prefill_attention`: one sequence after another."""

from __future__ import annotations

import torch
from torch import Tensor

from topmast_kernels.paged_cache import (
    Attention,
    PagedCache,
    check_attention,
    check_starts,
    describe,
    result_buffers,
)
from topmast_kernels.twin.attention import attend, gather, store


def prefill_attention(
    query: Tensor,
    cache: PagedCache,
    table: Tensor,
    starts: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Attention:
    """As the kernel's: query [tokens, heads, dim], starts int32 [sequences + 1], lengths int32 [sequences].

    Reads starts and lengths on the host, so it cannot be captured in a graph.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.ndim != 3:
        raise ValueError(f"query {describe(query)} must be [tokens, heads, dim].")
    check_attention(query, cache, table, lengths, scale)
    check_starts(starts, table)
    result = result_buffers(query, out, lse)
    begins = starts.tolist()
    for sequence, length in enumerate(lengths.tolist()):
        at = slice(begins[sequence], begins[sequence + 1])
        count = at.stop - at.start
        if count == 0:
            continue
        fits = length <= table.shape[1] * cache.page_size
        held = length if fits else 0
        pages = table[sequence, : -(-max(held, 1) // cache.page_size)]
        keys, values = gather(cache, pages, torch.tensor(held, device=query.device))
        earlier = torch.arange(count, device=query.device) + held - count + 1
        visible = earlier if causal else torch.full_like(earlier, held)
        store(attend(query[at], keys, values, visible, scale), result, at, fits)
    return result
