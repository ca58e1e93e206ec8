"""That filtered tokens are drawn with the right probabilities: chi-square with fixed seeds, and the support.

The twin draws the thousands; the kernel, which draws the same tokens, is counted with fewer. Each batch repeats one row
with its own seed or its own position.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from filtered_rows import parameters
from numpy.typing import NDArray
from oracle_vocabulary import Filters, distribution, kept
from significance import LEAST, chi_square, tail_of_chi_square

from topmast_kernels.gpu import filtered as gpu
from topmast_kernels.twin import filtered as twin

VOCABULARY = 96
COMBINATIONS = [
    Filters(1.0, top_k=12),
    Filters(0.8, top_p=0.9),
    Filters(1.5, min_p=0.05),
    Filters(1.2, top_k=20, top_p=0.85),
    Filters(1.0, top_k=20, min_p=0.08),
    Filters(2.0, top_p=0.7, min_p=0.1),
    Filters(1.7, top_k=30, top_p=0.9, min_p=0.04),
    Filters(1.0),
]


def one_row() -> NDArray[np.float32]:
    row = np.random.default_rng(11).standard_normal(VOCABULARY) * 1.5
    return row.astype(np.float32)


def drawn(module: ModuleType, wish: Filters, draws: int, by_position: bool) -> NDArray[np.int64]:
    """Counts of each token in `draws` rows, whose noise differs by seed or by position alone."""
    logits = torch.from_numpy(one_row()).expand(draws, -1).contiguous()
    number = torch.arange(draws)
    seeds, positions = (number * 0 + 99, number) if by_position else (number * 3 + 5, number * 0)
    wishes = {key: value.expand(draws).contiguous() for key, value in parameters([wish]).items()}
    found = module.sample_filtered(logits, seeds, positions.int(), **wishes, block=64)
    return np.bincount(found.tokens.numpy(), minlength=VOCABULARY)


@pytest.mark.parametrize("by_position", [False, True], ids=["by seed", "by position"])
@pytest.mark.parametrize("wish", COMBINATIONS, ids=str)
def test_the_twin_draws_with_the_right_probabilities(wish: Filters, by_position: bool) -> None:
    counts, expected = drawn(twin, wish, 2000, by_position), distribution(one_row(), wish) * 2000
    assert set(counts.nonzero()[0]) <= set(kept(one_row(), wish).ids)
    assert all(counts[token] > 0 for token in np.flatnonzero(expected > 30))
    assert chi_square(counts, expected) > LEAST / (2 * len(COMBINATIONS))


@pytest.mark.parametrize("wish", [Filters(1.0, top_k=4), Filters(0.5, top_p=0.6)], ids=str)
def test_the_kernel_draws_with_the_right_probabilities(wish: Filters) -> None:
    counts, expected = drawn(gpu, wish, 100, False), distribution(one_row(), wish) * 100
    assert chi_square(counts, expected) > LEAST
    assert np.array_equal(counts, drawn(twin, wish, 100, False))


def against_torch(drawn_at: float, expected_at: float, draws: int = 8000) -> float:
    """P that our draws at one temperature and torch's at another differ by as much as they do.

    Of two samples of one distribution, equally large, (a - b)^2 / (a + b) summed over the tokens is a chi-square.
    """
    torch.manual_seed(4)
    exact = torch.from_numpy(distribution(one_row(), Filters(expected_at)))
    theirs = np.bincount(torch.multinomial(exact, draws, replacement=True).numpy(), minlength=VOCABULARY)
    ours = drawn(twin, Filters(drawn_at), draws, False)
    rare = ours + theirs < 20
    a, b = (np.append(counts[~rare], counts[rare].sum()) for counts in (ours, theirs))
    return tail_of_chi_square(float(((a - b) ** 2 / np.maximum(a + b, 1)).sum()), len(a) - 1)


def test_torchs_own_sampler_in_double_precision_draws_the_same() -> None:
    assert against_torch(1.2, 1.2) > LEAST
    assert against_torch(1.2, 1.5) < LEAST  # what the test can tell apart


def test_what_is_far_less_likely_is_drawn_as_often_as_it_should_be() -> None:
    """Two tokens 5 nats apart: 67 in 10000."""
    draws = 5000
    logits = torch.tensor([[0.0, -5.0, -50.0]]).expand(draws, -1).contiguous()
    wish = {"top_k": torch.full((draws,), 2, dtype=torch.int32)}
    found = twin.sample_filtered(logits, torch.arange(draws), torch.zeros(draws, dtype=torch.int32), **wish)
    share = np.exp(-5.0) / (1 + np.exp(-5.0))
    counts = np.bincount(found.tokens.numpy(), minlength=3)
    assert chi_square(counts, np.array([draws * (1 - share), draws * share, 0.0])) > LEAST


def test_consecutive_positions_and_seeds_are_independent() -> None:
    """Whether neighbours draw the same of two equal tokens: half of the time, whatever neighbours are."""
    draws = 2000
    logits = torch.zeros(draws, 8)
    wish = {"top_k": torch.full((draws,), 2, dtype=torch.int32)}
    number = torch.arange(draws)
    for seeds, positions in ((number, number * 0), (number * 0 + 1, number), (number, number)):
        tokens = twin.sample_filtered(logits, seeds, positions.int(), **wish).tokens
        same = int((tokens[1:] == tokens[:-1]).sum())
        assert abs(same - draws / 2) < 4 * np.sqrt(draws) / 2
