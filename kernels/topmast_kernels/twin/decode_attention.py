"""Twin of `topmast_kernels.gpu.decode_attention`: the whole batch at once, without splits."""

from __future__ import annotations

import torch
from torch import Tensor

from topmast_kernels.paged_cache import Attention, PagedCache, check_attention, describe, result_buffers
from topmast_kernels.twin.attention import attend, gather, store


def decode_attention(
    query: Tensor,
    cache: PagedCache,
    table: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    max_context: int | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Attention:
    """As the kernel's: query [sequences, (tokens,) heads, dim], table int32 [sequences, pages], lengths int32."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.ndim not in (3, 4):
        raise ValueError(f"query {describe(query)} must be [sequences, heads, dim] or [sequences, tokens, heads, dim].")
    check_attention(query, cache, table, lengths, scale)
    result = result_buffers(query, out, lse)
    if query.shape[0] != table.shape[0]:
        raise ValueError(
            f"The query has {query.shape[0]} sequences and the table {table.shape[0]}; pass as many of both."
        )
    rows = query if query.ndim == 4 else query[:, None]
    tokens = rows.shape[1]
    if query.numel() == 0:
        return result
    capacity = table.shape[1] * cache.page_size
    fits = lengths <= (capacity if max_context is None else min(max_context, capacity))
    keys, values = gather(cache, table, lengths.where(fits, 0))
    hidden = (
        torch.arange(tokens - 1, -1, -1, device=query.device) if causal else torch.zeros(tokens, device=query.device)
    )
    answer = attend(rows, keys, values, lengths[:, None] - hidden, scale)
    target = result if query.ndim == 4 else Attention(result.out[:, None], result.lse[:, None])
    store(answer, target, slice(None), fits)
    return result
