"""Attention in float64 NumPy, one row at a time, from the definition; and the paged caches that the tests attend to.

Every slot of a cache that no sequence owns is poisoned: NaN where the dtype has one, and NaN in the scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topmast_kernels.paged_cache import NARROW, Attention, PagedCache

Float64 = NDArray[np.float64]


def assert_same(got: Attention, wanted: Attention, *, bits: bool) -> None:
    """To the bit, as kernels promise. A twin multiplies with a BLAS, which may sum up otherwise where memory is laid
    out otherwise: then lse within fp32 sums, out within one step of its dtype.
    """
    if bits:
        assert torch.equal(got.out, wanted.out)
        assert torch.equal(got.lse, wanted.lse)
        return
    step = torch.finfo(wanted.out.dtype).eps
    torch.testing.assert_close(got.out.float(), wanted.out.float(), atol=1e-5, rtol=step)
    torch.testing.assert_close(got.lse, wanted.lse, atol=1e-5, rtol=1e-6)


@dataclass(frozen=True)
class Pages:
    """A cache, its table [sequences, pages], and what they hold: keys, values [length, kv_heads, dim] per sequence."""

    cache: PagedCache
    table: Tensor
    lengths: Tensor
    keys: list[Float64]
    values: list[Float64]


def attention_row(query: Float64, keys: Float64, values: Float64, scale: float) -> tuple[Float64, float]:
    """(out [dim], lse) of one query [dim] over keys, values [n, dim]; n may be 0."""
    if len(keys) == 0:
        return np.zeros(query.shape[0]), -np.inf
    scores = keys @ query * scale
    best = scores.max()
    weights = np.exp(scores - best)
    return weights @ values / weights.sum(), float(best + np.log(weights.sum()))


def attention(query: Tensor, visible: int, keys: Float64, values: Float64, scale: float) -> tuple[Float64, Float64]:
    """(out [heads, dim], lse [heads]) of one token's query [heads, dim] over the first `visible` keys."""
    heads, group = query.shape[0], query.shape[0] // keys.shape[1]
    seen = max(visible, 0)
    rows = [
        attention_row(query[h].double().numpy(), keys[:seen, h // group], values[:seen, h // group], scale)
        for h in range(heads)
    ]
    return np.stack([out for out, _ in rows]), np.array([lse for _, lse in rows])


def paged(
    lengths: list[int],
    *,
    kv_heads: int = 2,
    dim: int = 64,
    page_size: int = 16,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    spare_pages: int = 2,
    heads_first: bool = False,
    offset: float = 0.0,
) -> Pages:
    """Random keys and values of sequences of `lengths` in scattered pages, with spare columns in the table.

    heads_first: memory as [pages, kv_heads, page_size, dim]. offset: a constant first coordinate of each key, so that
    scores move by query[0] * offset.
    """
    rng = np.random.default_rng(seed)
    needed = [-(-length // page_size) for length in lengths]
    width = max(needed) + spare_pages
    count = sum(needed) + 3
    free = rng.permutation(count).astype(np.int32)
    table = np.full((len(lengths), width), free[-1], np.int32)  # unused columns name a page that nobody owns
    for sequence, pages in enumerate(needed):
        table[sequence, :pages], free = free[:pages], free[pages:]

    owned = torch.zeros(count, page_size, dtype=torch.bool)
    for sequence, length in enumerate(lengths):
        for position in range(length):
            owned[table[sequence, position // page_size], position % page_size] = True
    shape = (count, page_size, kv_heads, dim)
    stored, scales, real = [], [], []
    for which in range(2):
        numbers = torch.from_numpy(rng.standard_normal(shape)).float()
        if which == 0 and offset:
            numbers[..., 0] = offset
        scale = torch.from_numpy(rng.uniform(0.005, 0.02, shape[:3])).float()
        entries = _poisoned(numbers, scale, owned, dtype)
        if heads_first:
            entries = entries.transpose(1, 2).contiguous().transpose(1, 2)
        stored.append(entries)
        scales.append(scale.masked_fill(~owned[..., None], torch.nan))
        wide = entries.float().double()
        real.append((wide * scales[which].double()[..., None] if dtype in NARROW else wide).numpy())

    def of(which: int, sequence: int) -> Float64:
        return real[which][table[sequence]].reshape(-1, kv_heads, dim)[: lengths[sequence]]

    cache = PagedCache(*stored, *(scales if dtype in NARROW else ()))
    sequences = range(len(lengths))
    return Pages(
        cache,
        torch.from_numpy(table),
        torch.tensor(lengths, dtype=torch.int32),
        [of(0, s) for s in sequences],
        [of(1, s) for s in sequences],
    )


def _poisoned(numbers: Tensor, scale: Tensor, owned: Tensor, dtype: torch.dtype) -> Tensor:
    hidden = ~owned[..., None, None]
    if dtype not in NARROW:
        return numbers.masked_fill(hidden, torch.nan).to(dtype)
    quotient = numbers / scale[..., None]
    if dtype == torch.int8:
        return quotient.round().clamp(-127, 127).masked_fill(hidden, 127.0).to(torch.int8)
    return quotient.clamp(-448, 448).masked_fill(hidden, torch.nan).to(dtype)
