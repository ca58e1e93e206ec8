"""From logits to tokens: each row greedy or drawn by its own request's wish, the same whatever runs beside it.

Compiled once the kernels of this machine are, by their twin in torch before that; both give the same tokens. Which
tokens those are is said in topmast_kernels.twin.filtered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu import cache
from topmast_server.messages import Sampling

if TYPE_CHECKING:
    import torch

_64_BITS = (1 << 64) - 1
_compiled: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's wish: `position` is the new token's place in its sequence."""

    sampling: Sampling
    seed: int
    position: int


def sample(logits: NDArray[np.float32] | torch.Tensor, draws: list[Draw]) -> list[int]:
    """One token per row of `logits` float32 [rows, vocabulary]; -1 where one is NaN or none is above -inf.

    A draw belongs to (seed, position) alone: the lowest 64 bits of the seed are the noise's key, so seeds that differ
    there, as all that requests may name do, have noise of their own.
    """
    rows: NDArray[np.float32] = np.asarray(logits)
    wishes = [draw.sampling for draw in draws]
    seeds = np.array([draw.seed & _64_BITS for draw in draws], np.uint64).view(np.int64)
    positions = np.array([draw.position for draw in draws], np.int64)
    filters: dict[str, NDArray[Any]] = {
        "temperature": np.array([wish.temperature for wish in wishes], np.float32),
        "top_k": np.array([max(0, min(wish.top_k, rows.shape[1])) for wish in wishes], np.int64),
        "top_p": np.array([wish.top_p for wish in wishes], np.float32),
        "min_p": np.array([wish.min_p for wish in wishes], np.float32),
    }
    tokens: list[int] = (_kernel() or _by_twin)(rows, seeds, positions, **filters)[0].tolist()
    return tokens


def _by_twin(logits: NDArray[Any], *where: NDArray[Any], **filters: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """As topmast_kernels.cpu.sampling.sample."""
    import torch  # here alone: it takes a second, which compiled kernels save

    from topmast_kernels.twin.filtered import sample_filtered
    from topmast_kernels.twin.rows import NAN_FLAG, NOTHING_FLAG

    tensors: dict[str, Any] = {name: torch.from_numpy(each) for name, each in filters.items()}
    seeds, positions = (torch.from_numpy(each) for each in where)
    found = sample_filtered(torch.from_numpy(logits), seeds, positions, **tensors)
    unusable = (found.flags & (NAN_FLAG | NOTHING_FLAG)) != 0
    return found.tokens.masked_fill(unusable, -1).numpy(), found.kept.numpy()


def _kernel() -> Callable[..., Any] | None:
    """The compiled sampler, loaded when it is first seen to be complete; None until then."""
    global _compiled
    if _compiled is None and cache.is_complete():
        from topmast_kernels.cpu import sampling

        _compiled = sampling.sample
    return _compiled
