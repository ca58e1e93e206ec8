"""That the CPU sampler draws with the right probabilities: chi-square with fixed seeds, the support, and the noise."""

from __future__ import annotations

import math

import numpy as np
import oracle_draws
import pytest
from cpu_rows import draw
from numpy.typing import NDArray
from oracle_vocabulary import Filters, distribution, kept
from significance import LEAST, chi_square, two_sided
from test_gpu_distribution import COMBINATIONS, VOCABULARY, one_row

from topmast_kernels.cpu import sampling, sampling_draws, sampling_lines


def drawn(row: NDArray[np.float32], wish: Filters, draws: int, by_position: bool) -> NDArray[np.int64]:
    """Tokens of `draws` copies of one row whose noise differs by seed or by position alone."""
    number = np.arange(draws)
    seeds, positions = (number * 0 + 99, number) if by_position else (number * 3 + 5, number * 0)
    logits = np.tile(row, (draws, 1))
    return draw(sampling, logits, [wish] * draws, seeds, positions, block=64)[0]


@pytest.mark.parametrize("by_position", [False, True], ids=["by seed", "by position"])
@pytest.mark.parametrize("wish", COMBINATIONS, ids=str)
def test_tokens_come_in_proportion_to_their_probability(wish: Filters, by_position: bool) -> None:
    draws = 20000
    counts = np.bincount(drawn(one_row(), wish, draws, by_position), minlength=VOCABULARY)
    expected = distribution(one_row(), wish) * draws
    assert set(counts.nonzero()[0]) <= set(kept(one_row(), wish).ids)
    assert all(counts[token] > 0 for token in np.flatnonzero(expected > 30))
    assert chi_square(counts, expected) > LEAST / (2 * len(COMBINATIONS))


def test_the_counts_can_tell_temperatures_apart() -> None:
    counts = np.bincount(drawn(one_row(), Filters(1.2), 20000, False), minlength=VOCABULARY)
    assert chi_square(counts, distribution(one_row(), Filters(1.0)) * 20000) < LEAST


@pytest.mark.parametrize("wish", [Filters(), Filters(top_k=64), Filters(top_p=0.9999)], ids=str)
def test_consecutive_draws_are_independent(wish: Filters) -> None:
    """Of one request at consecutive positions, and of requests with consecutive seeds at one position."""
    for by_position in (False, True):
        tokens = drawn(np.zeros(100, np.float32), wish, 20000, by_position).astype(float)
        correlation = np.corrcoef(tokens[1:], tokens[:-1])[0, 1]
        assert two_sided(correlation * math.sqrt(20000)) > LEAST


def test_a_token_far_behind_wins_as_often_as_it_should() -> None:
    """Two tokens 9 nats apart, drawn as candidates and by levels: 123 in a million, of which 200000 are drawn."""
    row, draws = np.array([9.0, 0.0], np.float32), 200000
    expected = draws / (1 + math.exp(9.0))
    for wish in (Filters(), Filters(min_p=1e-9)):
        hits = int(drawn(row, wish, draws, False).sum())
        assert two_sided((hits - expected) / math.sqrt(expected)) > LEAST


def test_a_draw_belongs_to_seed_and_position() -> None:
    """To all 64 bits of the seed and to nothing else; hardly ever do two draw the same of 4096 equal tokens."""
    seeds, positions = np.array([1, 1, 2, 1 + (1 << 32), -1]), np.array([5, 6, 5, 5, 5])
    for wish in (Filters(), Filters(top_k=4000)):
        tokens = draw(sampling, np.zeros((5, 4096), np.float32), [wish] * 5, seeds, positions)[0]
        assert len(set(tokens.tolist())) == 5


def test_words_are_philox() -> None:
    """The published vectors, which have the key and the counter of all zeros, and the oracle's words."""
    first, second = sampling_draws.philox(0, 0, np.int64(0), 0)
    assert (first, second) == (0x6627E8D5, 0xE169C58D)
    for seed, position, stream, number in ((-1, -1, 2, 2**31 - 1), (2**62 + 7, 12345, 1, 3)):
        where = np.array([seed]), np.array([position]), stream, np.array([number])
        expected = [int(word[0]) for word in oracle_draws.words(*where)]
        assert list(sampling_draws.philox(seed, position, np.int64(stream), number)) == expected


def test_the_smallest_and_the_greatest_noise_is_finite_and_right() -> None:
    first = np.array([0, 0, 0, 1, 4095, 4096, 2**25, 2**25 - 2**18, 2**31, 2**32 - 1], np.uint64)
    second = np.array([0, 1, 2**32 - 1, 0, 2**32 - 1, 7, 0, 5, 9, 2**32 - 1], np.uint64)
    mine = [sampling_draws.noise(a, b) for a, b in zip(first, second, strict=True)]
    expected = -np.log2(oracle_draws.exponential(first, second))
    assert np.isfinite(mine).all()
    np.testing.assert_allclose(mine, expected, rtol=1e-14)


def test_weights_are_powers_of_two_to_fourteen_digits() -> None:
    bits = np.concatenate([-np.logspace(-12, np.log10(990), 300), [0.0, -0.5, -1.0, -1000.5, -np.inf]])
    mine = np.array([sampling_lines.weight(some) for some in bits])
    np.testing.assert_allclose(mine, np.where(bits > -1000, np.exp2(bits), 0.0), rtol=1e-14)
