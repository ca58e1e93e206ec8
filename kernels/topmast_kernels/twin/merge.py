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
    merged_lse = torch.logaddexp(first.lse, second.lse)
    parts = []
    for part in (first, second):
        empty = part.lse == float("-inf")
        share = (part.lse - merged_lse).exp().masked_fill(empty, 0.0)
        parts.append(part.out.float().masked_fill(empty[..., None], 0.0) * share[..., None])
    result.out.copy_(parts[0] + parts[1])
    result.lse.copy_(merged_lse)
    return result
