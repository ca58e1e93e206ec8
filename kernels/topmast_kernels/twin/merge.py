"""Twin of `topmast_kernels.gpu.merge`."""

from __future__ import annotations

import torch
from torch import Tensor

from topmast_kernels.paged_cache import Attention, check_merge, result_buffers


def merge_attention(
    first: Attention, second: Attention, *, out: Tensor | None = None, lse: Tensor | None = None
) -> Attention:
    """As the kernel's: the attention over the keys of both, outs [rows, heads, dim], LSEs [rows, heads]."""
    check_merge(first, second)
    result = result_buffers(first.out, out, lse)
    higher = torch.maximum(first.lse, second.lse)
    outs, shares = [], []
    for part in (first, second):
        empty = part.lse == float("-inf")
        shares.append((part.lse - higher).masked_fill(empty, float("-inf")).contiguous().exp())
        outs.append(part.out.float().masked_fill(empty[..., None], 0.0) * shares[-1][..., None])
    total = shares[0] + shares[1]
    # Subtracting the LSE of both instead would lose the digits of large ones.
    result.out.copy_((outs[0] + outs[1]) / total.masked_fill(total == 0.0, 1.0)[..., None])
    result.lse.copy_(higher + total.log())
    return result
