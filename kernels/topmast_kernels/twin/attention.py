"""Attention over gathered keys in fp32, shared by the twins of decode and prefill attention."""

from __future__ import annotations

import torch
from torch import Tensor

from topmast_kernels.paged_cache import Attention, PagedCache


def gather(cache: PagedCache, table: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of `table` int32 [..., pages] as fp32 [..., kv_heads, pages * page_size, dim].

    Slots from `length` [...] on read as zero: they belong to nobody and may hold NaN. So may the pages that the table
    names behind a sequence's end, which are therefore not looked up.
    """
    slots = torch.arange(table.shape[-1] * cache.page_size, device=table.device)
    owned = slots < length[..., None]
    pages = table.long().masked_fill(~owned[..., :: cache.page_size], 0)

    def read(entries: Tensor, scales: Tensor | None) -> Tensor:
        wide = entries[pages].float()
        if scales is not None:
            wide = wide * scales[pages][..., None]
        wide = wide.flatten(-4, -3).transpose(-3, -2)
        return wide.masked_fill(~owned[..., None, :, None], 0.0)

    return read(cache.keys, cache.key_scales), read(cache.values, cache.value_scales)


def attend(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float) -> Attention:
    """query [..., tokens, heads, dim]; keys, values fp32 [..., kv_heads, n, dim]; token t sees visible[..., t] keys."""
    *batch, tokens, heads, dim = query.shape
    kv_heads, count = keys.shape[-3], keys.shape[-2]
    group = heads // kv_heads
    rows = query.float().reshape(*batch, tokens, kv_heads, group, dim).movedim(-4, -2)
    scores = rows.reshape(*batch, kv_heads, group * tokens, dim) @ keys.transpose(-1, -2)
    scores = scores.reshape(*batch, kv_heads, group, tokens, count)
    hidden = torch.arange(count, device=query.device) >= visible[..., None]
    scores = scores.masked_fill(hidden[..., None, None, :, :], float("-inf"))
    best = scores.amax(-1, keepdim=True)
    weights = ((scores - best.masked_fill(best == float("-inf"), 0.0)) * scale).exp()
    total = weights.sum(-1, keepdim=True)
    out = weights.reshape(*batch, kv_heads, group * tokens, count) @ values
    out = out.reshape(*batch, kv_heads, group, tokens, dim) / total.masked_fill(total == 0.0, 1.0)
    lse = best * scale + total.log()
    return Attention(
        out.movedim(-2, -4).reshape(query.shape),
        lse.movedim(-2, -4).reshape(query.shape[:-1]),
    )


def store(result: Attention, target: Attention, at: slice, fits: Tensor | bool) -> None:
    """Round `result` into rows `at` of `target`; NaN where the sequence's length does not fit its table."""
    fits = torch.as_tensor(fits, device=result.out.device)
    target.out[at] = result.out.masked_fill(~fits.view(fits.shape + (1,) * (result.out.ndim - fits.ndim)), torch.nan)
    target.lse[at] = result.lse.masked_fill(~fits.view(fits.shape + (1,) * (result.lse.ndim - fits.ndim)), torch.nan)
