"""Sampling against float64 NumPy and transformers' own filters, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from topmast_server.engine.sampler import Draw, candidates, gumbel, sample
from topmast_server.messages import Sampling

GREEDY = Sampling(temperature=0.0)


def logits(rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(3 * np.random.default_rng(seed).standard_normal((rows, vocabulary)).astype(np.float32))


def chi_square_over_freedom(drawn: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * len(drawn)
    often = expected >= 5
    counts = np.bincount(drawn, minlength=len(probabilities))
    pairs = [*zip(counts[often], expected[often], strict=True), (counts[~often].sum(), expected[~often].sum())]
    return sum((seen - wanted) ** 2 / wanted for seen, wanted in pairs if wanted > 0) / max(1, often.sum() - 1)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_draws_follow_the_softmax(temperature: float) -> None:
    row = logits(1, 200)
    draws = [Draw(Sampling(temperature=temperature), seed, position) for seed in range(200) for position in range(100)]
    drawn = np.array(sample(row.expand(len(draws), -1), draws))
    exact = np.exp(row[0].numpy().astype(np.float64) / temperature)
    # Over 100 degrees of freedom the ratio's standard deviation is below 0.15.
    assert 0.5 < chi_square_over_freedom(drawn, exact / exact.sum()) < 1.5


def test_draws_of_one_seed_over_positions_are_as_random_as_those_over_seeds() -> None:
    row = logits(1, 50)
    exact = np.exp(row[0].numpy().astype(np.float64))
    for draws in ([Draw(Sampling(), 7, p) for p in range(20000)], [Draw(Sampling(), s, 7) for s in range(20000)]):
        drawn = np.array(sample(row.expand(len(draws), -1), draws))
        assert chi_square_over_freedom(drawn, exact / exact.sum()) < 2.0
        pairs = np.corrcoef(drawn[:-1], drawn[1:])[0, 1]
        assert abs(pairs) < 0.03


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
)
@pytest.mark.parametrize("vocabulary", [100, 5000])
def test_filters_leave_what_transformers_leaves(sampling: Sampling, vocabulary: int) -> None:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    for seed in range(5):
        rows = logits(1, vocabulary, seed)
        warped = warpers(torch.zeros((1, 1), dtype=torch.long), rows)[0]
        ids, scores = candidates(rows[0], sampling)
        # Transformers sums float32 probabilities from the other end: a boundary token may differ by rounding.
        unequal = set(ids.tolist()) ^ set(torch.isfinite(warped).nonzero()[:, 0].tolist())
        assert (rows[0] / sampling.temperature).softmax(-1)[sorted(unequal)].sum() < 1e-6
        np.testing.assert_allclose(scores, (rows[0] / sampling.temperature)[ids].numpy(), rtol=1e-6)


def test_a_draw_does_not_depend_on_its_neighbours() -> None:
    rows = logits(8, 1000)
    mixed = [Sampling(), GREEDY, Sampling(top_k=3), Sampling(top_p=0.5), Sampling(temperature=2.0, min_p=0.1)]
    draws = [Draw(mixed[row % len(mixed)], row * 11, row) for row in range(8)]
    together = sample(rows, draws)
    assert together == [sample(rows[row : row + 1], draws[row : row + 1])[0] for row in range(8)]
    assert together[::-1] == sample(rows.flip(0), draws[::-1])


def test_greedy_takes_the_first_maximum() -> None:
    rows = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert sample(rows, [Draw(GREEDY, 0, 0)]) == [1]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=5, top_p=0.5)])
def test_a_row_that_is_not_a_number_ends_alone(poison: float, sampling: Sampling) -> None:
    rows = logits(3, 100)
    rows[1, 42] = poison
    tokens = sample(rows, [Draw(sampling, 1, 1)] * 3)
    assert tokens[1] == -1
    assert tokens[0] >= 0
    assert tokens[2] >= 0


def test_noise_has_the_gumbel_distribution_and_is_always_finite() -> None:
    noise = np.concatenate([gumbel(seed, 3, np.arange(49152)) for seed in range(20)])
    assert np.isfinite(noise).all()
    for quantile in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert np.quantile(noise, quantile) == pytest.approx(-np.log(-np.log(quantile)), abs=0.05)
