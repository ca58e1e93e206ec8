"""Calls of the CPU sampler with a list of `Filters`, and the check of each row against the oracle, in float64."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from filtered_rows import as_given, seeds_of
from numpy.typing import NDArray
from oracle_draws import TOKEN, gumbel
from oracle_draws import draw as draw_in_levels
from oracle_vocabulary import NAN, Filters, clean, gaps, kept

from topmast_kernels.partition import checked_block

Found = tuple[NDArray[np.int64], NDArray[np.int64]]
# Masses are exact to 1e-14; a token whose limit is hit more closely than this may fall on either side.
NEAR = 1e-12


def sampled(module: ModuleType, logits: NDArray[np.float32], wishes: list[Filters], block: int | None = None) -> Found:
    """(tokens, kept) of `module.sample`, each row with a seed and a position of its own."""
    seeds, positions = (each.numpy() for each in seeds_of(len(logits)))
    return draw(module, logits, wishes, seeds, positions, block)


def draw(
    module: ModuleType,
    logits: NDArray[np.float32],
    wishes: list[Filters],
    seeds: NDArray[np.int64],
    positions: NDArray[np.int64],
    block: int | None = None,
) -> Found:
    found: Found = module.sample(
        logits,
        seeds,
        positions.astype(np.int64),
        temperature=np.array([wish.temperature for wish in wishes], np.float32),
        top_k=np.array([wish.top_k for wish in wishes], np.int64),
        top_p=np.array([wish.top_p for wish in wishes], np.float32),
        min_p=np.array([wish.min_p for wish in wishes], np.float32),
        block=block,
    )
    return found


def check(found: Found, logits: NDArray[np.float32], wishes: list[Filters], block: int | None = None) -> int:
    """Number of tokens kept (they are the first of the order) and the token, of every row; how many were too near."""
    vocabulary = logits.shape[1]
    seeds, positions = (each.numpy().astype(np.int64) for each in seeds_of(len(logits)))
    near = 0
    for row, given in enumerate(wishes):
        values, flags = clean(logits[row])
        wish = as_given(given, vocabulary)
        expected = kept(values, wish)
        answer = int(found[0][row]), int(found[1][row])
        if flags & NAN or len(expected.ids) == 0:
            assert answer == (-1, 0), (row, wish)
            continue
        if expected.margin <= NEAR:
            near += 1
            continue
        active = wish.greedy() or wish.active(vocabulary)
        assert answer[1] == (len(expected.ids) if active else 0), (row, wish)
        where = seeds[row : row + 1], positions[row : row + 1]
        if wish.greedy():
            token = int(expected.ids[0])
        elif active:
            scores = gaps(values)[expected.ids] / wish.temperature + gumbel(*where, TOKEN, expected.ids)
            token = int(expected.ids[scores.argmax()])
        else:
            token = int(draw_in_levels(values, wish.temperature, checked_block(vocabulary, block), *where)[0])
        assert answer[0] == token, (row, wish)
    return near
