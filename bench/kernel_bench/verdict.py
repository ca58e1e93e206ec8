"""Is a contestant's answer right? Samplers are judged by what they may draw and by how often they draw it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 256
DRAWS_ON_CPU = 3  # enough to see that the check runs
ROWS = 32  # of a batch that are judged; the reference works in float64 and would take longer than the measurement
CHANCE = 1e-6  # of calling a right sampler wrong


@dataclass(frozen=True)
class Filters:
    top_k: int = 0
    top_p: float = 1.0


def reference(logits: Tensor, filters: Filters, *, all_ties: bool) -> Tensor:
    """float64 [rows, V]: probabilities after top-k, then top-p. all_ties: tokens equal to the k-th stay, too."""
    values, ids = logits.double().sort(dim=1, descending=True, stable=True)
    if 0 < filters.top_k < logits.shape[1]:
        beyond = torch.arange(values.shape[1], device=values.device) >= filters.top_k
        if all_ties:
            beyond = beyond & (values < values[:, filters.top_k - 1, None])
        values = values.masked_fill(beyond, -math.inf)
    share = values.softmax(dim=1)
    share = share.masked_fill(share.cumsum(dim=1) - share >= filters.top_p, 0.0)
    return torch.zeros_like(share).scatter_(1, ids, share / share.sum(dim=1, keepdim=True))


def judge_sampler(
    logits: Tensor,
    draw: Callable[[], Tensor],
    filters: Filters,
    *,
    all_ties: bool,
    next_step: Callable[[], None],
    draws: int = DRAWS,
) -> str | None:
    """None, or what is wrong with the tokens [rows] that `draw` gives. next_step() moves positions on between draws.

    Each token's place in its row's sorted distribution (anywhere within its own mass) must be uniform: the
    Kolmogorov-Smirnov distance of 256 of them stays below what happens once in a million.
    """
    rows = min(len(logits), ROWS)
    shares = reference(logits[:rows], filters, all_ties=all_ties)
    order = shares.argsort(dim=1, descending=True)  # by id, the most likely token could be anywhere
    upto = torch.empty_like(shares).scatter_(1, order, shares.gather(1, order).cumsum(dim=1))
    places = []
    generator = torch.Generator(logits.device).manual_seed(5)
    for _ in range(math.ceil(draws / rows)):
        tokens = draw()[:rows].long().view(rows, 1)
        next_step()
        if ((tokens < 0) | (tokens >= logits.shape[1])).any():
            return f"token {int(tokens.min())} or {int(tokens.max())} is outside the vocabulary"
        mass = shares.gather(1, tokens)
        if (mass == 0).any() and not _at_the_edge(logits[:rows], tokens, mass, shares):
            return "a token was drawn that the filters forbid"
        inside = torch.rand(rows, 1, generator=generator, device=logits.device, dtype=torch.float64)
        places.append(upto.gather(1, tokens) - mass * inside)
    found = torch.cat(places).flatten().sort().values.cpu()
    grid = torch.arange(1, len(found) + 1, dtype=torch.float64) / len(found)
    distance = max(float((grid - found).max()), float((found - grid + 1 / len(found)).max()))
    limit = math.sqrt(-math.log(CHANCE / 2) / 2 / len(found))
    return (
        None if distance < limit else f"draws do not follow the distribution: KS distance {distance:.3f} > {limit:.3f}"
    )


def _at_the_edge(logits: Tensor, tokens: Tensor, mass: Tensor, shares: Tensor) -> bool:
    """Whether every forbidden token is as likely as the last one that is allowed: sums in fp32 may end one off."""
    last = torch.where(shares > 0, logits.double(), math.inf).min(dim=1, keepdim=True).values
    behind = last - logits.double().gather(1, tokens)
    return bool((behind[mass == 0] <= 0.02 * last.abs()[mass == 0]).all())


def judge_close(found: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """None if the difference is below `tolerance` of the reference's size, row by row."""
    found, expected = found.double().flatten(1), expected.double().flatten(1)
    if found.shape != expected.shape:
        return f"the result is {list(found.shape)} and should be {list(expected.shape)}"
    error = ((found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)).max().item()
    return None if error < tolerance else f"relative error {error:.2e} is above {tolerance:.0e}"
