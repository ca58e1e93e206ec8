"""The random numbers that draws are made of: whose they are, and that their smallest values are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from oracle_draws import exponential as exponential_of
from oracle_draws import philox
from oracle_draws import words as words_of
from quick_interpreter import PHILOX_OF_TRITON
from significance import LEAST, kolmogorov, two_sided
from triton.language import random

from topmast_kernels.gpu.noise import exponential, gumbel2, words


@triton.jit
def _words(seeds, positions, ids, first, second, stream: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    a, b = words(tl.load(seeds), tl.load(positions), stream, tl.load(ids + at))
    tl.store(first + at, a.to(tl.int32, bitcast=True))
    tl.store(second + at, b.to(tl.int32, bitcast=True))


@triton.jit
def _exponential(first, second, out, N: tl.constexpr):
    at = tl.arange(0, N)
    a, b = tl.load(first + at).to(tl.uint32, bitcast=True), tl.load(second + at).to(tl.uint32, bitcast=True)
    tl.store(out + at, exponential(a, b))


@triton.jit
def _gumbel(seeds, positions, ids, out, stream: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, gumbel2(tl.load(seeds), tl.load(positions), stream, tl.load(ids + at)))


@triton.jit
def _philox(seed, counter, out):
    a, b, c, d = tl.philox(tl.load(seed), *(tl.load(counter + n + tl.arange(0, 1)) for n in tl.static_range(4)))
    for n, word in enumerate((a, b, c, d)):
        tl.store(out + n + tl.arange(0, 1), word.to(tl.int32, bitcast=True))


def int32(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def int64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def draw_words(seed: int, position: int, stream: int, ids: list[int]) -> list[tuple[int, int]]:
    n = len(ids)
    first, second = torch.empty(n, dtype=torch.int32), torch.empty(n, dtype=torch.int32)
    arguments = torch.tensor([int64(seed)]), torch.tensor([position], dtype=torch.int32)
    _words[(1,)](*arguments, torch.tensor(ids, dtype=torch.int32), first, second, stream=stream, N=n)
    return [(int(a) & 0xFFFFFFFF, int(b) & 0xFFFFFFFF) for a, b in zip(first, second, strict=True)]


def draw_exponential(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> NDArray[np.float32]:
    out = torch.empty(len(first))
    halves = torch.from_numpy(first.view(np.int32)), torch.from_numpy(second.view(np.int32))
    _exponential[(1,)](*halves, out, N=len(first))
    return out.numpy()


def draw_gumbel(seed: int, position: int, count: int, first: int = 0, stream: int = 0) -> NDArray[np.float32]:
    out, place = torch.empty(count), torch.tensor([position], dtype=torch.int32)
    _gumbel[(1,)](
        torch.tensor([seed]), place, torch.arange(first, first + count, dtype=torch.int32), out, stream, count
    )
    return out.numpy()


VECTORS = [  # counter, key, result: from the known answers of Random123
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.old_triton
@pytest.mark.parametrize("own", [True, False], ids=["Triton's own", "the tests' faster one"])
@pytest.mark.parametrize("vector", VECTORS, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_published_words(
    vector: tuple[str, str, str], own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own:
        monkeypatch.setattr(random, "philox_impl", PHILOX_OF_TRITON)
    counter, key, result = ([int(word, 16) for word in words.split()] for words in vector)
    out = torch.empty(4, dtype=torch.int32)
    seed = torch.tensor([int64(key[1] << 32 | key[0])])
    _philox[(1,)](seed, torch.tensor([int32(word) for word in counter], dtype=torch.int32), out)
    assert [int(word) & 0xFFFFFFFF for word in out] == result
    assert [
        int(word[0]) for word in philox([np.array([c], np.uint64) for c in counter], [np.uint64(k) for k in key])
    ] == result


def test_the_counter_is_position_id_and_stream() -> None:
    seed, position, ids = 0xA4093822_299F31D0, -3, [0, 1, 77, 128255]
    for stream in range(3):
        first, second = words_of(np.array([int64(seed)]), np.array([position]), stream, np.array(ids))
        assert draw_words(seed, position, stream, ids) == list(zip(first.tolist(), second.tolist(), strict=True))


def test_exponential_is_finite_positive_and_monotone_at_its_ends() -> None:
    top = 2**32 - 1
    pairs = [
        (0, 0),
        (0, 1),
        (0, top),
        (1, 0),
        (4095, top),
        (4096, 0),
        (2**25 - 1, 0),
        (2**25, 0),
        (2**31, 0),
        (top - 1, 0),
    ]
    pairs += [(top, 0), (top, 0), (top, top), (top, 0), (top, 0), (top, 0)]
    first, second = (np.array(words, np.uint32) for words in zip(*pairs, strict=True))
    drawn = draw_exponential(first, second)
    assert drawn[0] == 2.0**-65
    np.testing.assert_allclose(drawn[-1], 33 * math.log(2), rtol=1e-6)
    assert (np.diff(drawn) >= 0).all() and np.isfinite(drawn).all()
    np.testing.assert_allclose(drawn, exponential_of(first.astype(np.uint64), second.astype(np.uint64)), rtol=5e-6)


def test_exponential_follows_its_distribution() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 2**32, (2, 65536), dtype=np.uint32)
    drawn = draw_exponential(first, second)
    np.testing.assert_allclose(drawn, exponential_of(first.astype(np.uint64), second.astype(np.uint64)), rtol=5e-6)
    sample = np.sort(drawn.astype(np.float64))
    assert kolmogorov(sample, 1 - np.exp(-sample)) > LEAST


def test_noise_of_a_sequence_follows_gumbels_distribution() -> None:
    sample = np.sort(draw_gumbel(5, 9, 32768).astype(np.float64) * math.log(2))
    assert kolmogorov(sample, np.exp(-np.exp(-sample))) > LEAST


@pytest.mark.parametrize(("nats", "first_below"), [(18, 4096), (20, 4096), (24, 1), (28, 1)])
def test_tokens_far_behind_win_as_often_as_they_should(nats: int, first_below: int) -> None:
    """A token so many nats behind wins when its exponential is e**-nats of the leader's.

    That takes a first word below 4096, or even of 0, which is given here; so few draws suffice, and the share of those
    that must win is known.
    """
    rng, count = np.random.default_rng(nats), 131072
    leader = draw_exponential(*rng.integers(0, 2**32, (2, count), dtype=np.uint32)).astype(np.float64)
    behind = draw_exponential(
        rng.integers(0, first_below, count, dtype=np.uint32), rng.integers(0, 2**32, count, dtype=np.uint32)
    )
    wins = (behind < leader * math.exp(-nats)).sum()
    chance = np.minimum(1.0, leader * math.exp(-nats) / (first_below / 2**32))
    assert two_sided((wins - chance.sum()) / math.sqrt((chance * (1 - chance)).sum())) > LEAST
    assert wins > 100


def test_noise_of_neighbours_is_independent() -> None:
    """Consecutive positions, seeds, ids and streams, and seeds that differ in their high words only."""
    count = 16384
    here = draw_gumbel(100, 7, count)
    others = {
        "next position": draw_gumbel(100, 8, count),
        "next seed": draw_gumbel(101, 7, count),
        "other high word": draw_gumbel(100 + (1 << 32), 7, count),
        "next id": draw_gumbel(100, 7, count, first=1),
        "other stream": draw_gumbel(100, 7, count, stream=1),
    }
    for what, there in others.items():
        correlation = np.corrcoef(here, there)[0, 1]
        assert two_sided(correlation * math.sqrt(count)) > LEAST, what
        assert not np.array_equal(here, there), what
