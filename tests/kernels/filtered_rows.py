"""Calls of the filtered samplers with a list of `Filters`, and the check of each row against the oracle."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from oracle_draws import TOKEN, gumbel
from oracle_draws import draw as draw_in_levels
from oracle_vocabulary import Filters, Floats, clean, gaps, kept, log_softmax, unpack_allowed
from torch import Tensor

from topmast_kernels.partition import checked_block

# Masses are exact to float32's exp, and the limit of a nucleus is compared with that.
NEAR = 2e-6


def parameters(filters: list[Filters]) -> dict[str, Tensor]:
    return {
        "temperature": torch.tensor([each.temperature for each in filters]),
        "top_k": torch.tensor([each.top_k for each in filters], dtype=torch.int32),
        "top_p": torch.tensor([each.top_p for each in filters]),
        "min_p": torch.tensor([each.min_p for each in filters]),
    }


def seeds_of(rows: int) -> tuple[Tensor, Tensor]:
    """Seeds of all 64 bits and positions, different in each row."""
    seeds = torch.arange(rows, dtype=torch.int64) * 0x9E3779B97F4A7C1 - 3
    return seeds, torch.arange(rows, dtype=torch.int32) * 7 + 1


def sampled(module: ModuleType, logits: Tensor, filters: list[Filters], **more: Any) -> Any:
    seeds, positions = seeds_of(len(logits))
    return module.sample_filtered(logits, seeds, positions, **parameters(filters), **more)


def check(
    found: Any,
    logits: Tensor,
    filters: list[Filters],
    *,
    vocabulary: int | None = None,
    allowed: Tensor | None = None,
    fallback: int = 0,
    block: int | None = None,
) -> None:
    """Kept set (a prefix of the order, so its size says all), token, log-probability and flags of every row."""
    vocabulary = logits.shape[1] if vocabulary is None else vocabulary
    seeds, positions = (each.numpy().astype(np.int64) for each in seeds_of(len(logits)))
    for row, wish in enumerate(filters):
        mask = None if allowed is None else unpack_allowed(allowed[row].numpy(), vocabulary)
        values, flags = clean(logits[row, :vocabulary].float().numpy(), mask)
        wish = as_given(wish, vocabulary)
        token = int(found.tokens[row])
        assert found.flags[row] == flags, (row, wish)
        expected = kept(values, wish)
        if len(expected.ids) == 0:
            assert (token, float(found.logprobs[row]), int(found.kept[row])) == (fallback, -np.inf, 0)
            continue
        active = wish.greedy() or wish.active(vocabulary)
        if expected.margin > NEAR:
            assert found.kept[row] == (len(expected.ids) if active else 0), (row, wish)
            where = (seeds[row : row + 1], positions[row : row + 1])
            assert likeliest(values, wish, expected.ids, token, *where, checked_block(vocabulary, block)), (row, wish)
        wanted = log_softmax(values, wish.temperature if wish.temperature >= 1e-5 else 1.0)[token]
        np.testing.assert_allclose(float(found.logprobs[row]), wanted, rtol=2e-6, atol=4e-6)


def likeliest(values: Floats, wish: Filters, ids: Any, token: int, seeds: Any, positions: Any, block: int) -> bool:
    """Whether `token` is what the noise in float64 draws, or within rounding of it."""
    if wish.greedy():
        return token == int(ids[0])
    if not wish.active(len(values)):
        return token == int(draw_in_levels(values, wish.temperature, block, seeds, positions)[0])
    scores = gaps(values)[ids] / wish.temperature + gumbel(seeds, positions, TOKEN, ids)
    return bool(token in ids and scores[ids == token][0] > scores.max() - 2e-5)


def as_given(wish: Filters, vocabulary: int) -> Filters:
    """The numbers as the sampler gets them; a top-k of all tokens is none."""
    t, p, m = (float(np.float32(each)) for each in (wish.temperature, wish.top_p, wish.min_p))
    return Filters(t, wish.top_k if wish.top_k < vocabulary else 0, p, m)
