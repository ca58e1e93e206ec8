"""The engine's sampler, compiled and by its twin: draws in proportion, what transformers' filters leave, odd rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from topmast_kernels.cpu import cache, compile
from topmast_server.engine import sampler
from topmast_server.engine.sampler import Draw, sample
from topmast_server.messages import Sampling

GREEDY = Sampling(temperature=0.0)
MIXED = [Sampling(), GREEDY, Sampling(top_k=3), Sampling(top_p=0.5), Sampling(temperature=2.0, min_p=0.1)]


@pytest.fixture(scope="module")
def compiled() -> None:
    compile.load_all()
    cache.mark_complete()


@pytest.fixture(params=["compiled", "twin"], autouse=True)
def way(request: pytest.FixtureRequest, compiled: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """How rows are sampled: as on a machine with all kernels, and as at the first start on one."""
    monkeypatch.setattr(sampler, "_compiled", None)
    if request.param == "twin":
        monkeypatch.setattr(cache, "is_complete", lambda: False)
    yield request.param
    assert (sampler._compiled is None) == (request.param == "twin")


def logits(rows: int, vocabulary: int, seed: int = 0) -> NDArray[np.float32]:
    return 3 * np.random.default_rng(seed).standard_normal((rows, vocabulary)).astype(np.float32)


def repeated(row: NDArray[np.float32], draws: list[Draw]) -> NDArray[np.int64]:
    return np.array(sample(np.tile(row, (len(draws), 1)), draws))


def chi_square_over_freedom(drawn: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    expected = probabilities * len(drawn)
    often = expected >= 5
    counts = np.bincount(drawn, minlength=len(probabilities))
    pairs = [*zip(counts[often], expected[often], strict=True), (counts[~often].sum(), expected[~often].sum())]
    return float(sum((seen - wanted) ** 2 / wanted for seen, wanted in pairs if wanted > 0) / max(1, often.sum() - 1))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_draws_follow_the_softmax(temperature: float) -> None:
    row = logits(1, 200)[0]
    draws = [Draw(Sampling(temperature=temperature), seed, position) for seed in range(200) for position in range(100)]
    exact = np.exp(row.astype(np.float64) / temperature)
    # Over some 50 degrees of freedom the ratio's standard deviation is 0.2.
    assert 0.4 < chi_square_over_freedom(repeated(row, draws), exact / exact.sum()) < 1.7


def test_draws_of_one_seed_over_positions_are_as_random_as_those_over_seeds() -> None:
    row = logits(1, 50)[0]
    exact = np.exp(row.astype(np.float64))
    for draws in ([Draw(Sampling(), 7, p) for p in range(20000)], [Draw(Sampling(), s, 7) for s in range(20000)]):
        drawn = repeated(row, draws)
        assert chi_square_over_freedom(drawn, exact / exact.sum()) < 2.0
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.8, top_k=5),
        Sampling(temperature=1.3, top_p=0.9),
        Sampling(temperature=1.0, top_p=0.9999),
        Sampling(temperature=1.0, min_p=0.05),
        Sampling(temperature=0.9, top_k=40, top_p=0.8, min_p=0.02),
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.0, top_p=1e-6),
    ],
    ids=str,
)
def test_what_transformers_filters_leave_is_drawn_and_nothing_else(sampling: Sampling) -> None:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    row = logits(1, 100)[0]
    warped = warpers(torch.zeros((1, 1), dtype=torch.long), torch.from_numpy(row)[None])[0].softmax(-1).numpy()
    drawn = repeated(row, [Draw(sampling, seed, 3) for seed in range(2000)])
    assert set(drawn) <= set(np.flatnonzero(warped))
    assert set(np.flatnonzero(warped > 0.01)) <= set(drawn)


def test_a_draw_does_not_depend_on_its_neighbours() -> None:
    rows = logits(8, 1000)
    draws = [Draw(MIXED[row % len(MIXED)], row * 11, row) for row in range(8)]
    together = sample(rows, draws)
    assert together == [sample(rows[row : row + 1], draws[row : row + 1])[0] for row in range(8)]
    assert together[::-1] == sample(rows[::-1].copy(), draws[::-1])


def test_every_part_of_a_seed_counts() -> None:
    """Seeds as requests give them and as clients of the engine might: all 64 bits, of either sign."""
    seeds = [1, 1 + (1 << 32), 1 + (1 << 62), (1 << 63) - 1, 1 << 63, -1]
    drawn = repeated(np.zeros(4096, np.float32), [Draw(Sampling(), seed, 5) for seed in seeds])
    assert len(set(drawn)) == len(seeds)


def test_tensors_and_arrays_give_the_same() -> None:
    rows = logits(5, 300)
    draws = [Draw(sampling, 3, 4) for sampling in MIXED]
    assert sample(torch.from_numpy(rows), draws) == sample(rows, draws)


def test_greedy_takes_the_first_maximum() -> None:
    assert sample(np.array([[0.0, 2.0, 2.0, 1.0]], np.float32), [Draw(GREEDY, 0, 0)]) == [1]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=5, top_p=0.5)], ids=str)
def test_a_row_that_is_not_a_number_ends_alone(sampling: Sampling) -> None:
    rows = logits(4, 100)
    rows[1, 42], rows[2] = np.nan, -np.inf
    tokens = sample(rows, [Draw(sampling, 1, 1)] * 4)
    assert tokens[1:3] == [-1, -1] and tokens[0] >= 0 and tokens[3] >= 0


def test_an_infinite_logit_is_the_token() -> None:
    rows = logits(len(MIXED), 100)
    rows[:, 42] = np.inf
    assert sample(rows, [Draw(sampling, 1, 1) for sampling in MIXED]) == [42] * len(MIXED)


def test_both_ways_draw_the_same_tokens(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, huge = logits(60, 5000, seed=9), Sampling(temperature=1.5, top_k=10_000_000, top_p=0.95)
    draws = [Draw([*MIXED, huge][row % 6], row * 0x9E3779B97F4A7C15, row) for row in range(60)]
    mine = sample(rows, draws)
    monkeypatch.setattr(sampler, "_kernel", lambda: None)
    assert sample(rows, draws) == mine
