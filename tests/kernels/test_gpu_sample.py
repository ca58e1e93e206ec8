"""Draws: the tokens that the noise says, in the right proportions, from rows of every kind."""

from __future__ import annotations

import math

import numpy as np
import oracle_draws
import pytest
import torch
from logit_rows import poisoned, random_mask, special_rows
from numpy.typing import NDArray
from oracle_vocabulary import clean, log_softmax, softmax, unpack_allowed
from oracle_vocabulary import greedy as oracle_greedy
from significance import LEAST, chi_square, two_sided

from topmast_kernels.gpu.greedy import greedy
from topmast_kernels.gpu.sample import Sampled, sample
from topmast_kernels.gpu.workspace import Workspace
from topmast_kernels.partition import block_size

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def places(rows: int, seed: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    """Seeds of all 64 bits and positions of both signs."""
    rng = np.random.default_rng(seed)
    seeds = torch.from_numpy(rng.integers(-(2**63), 2**63, rows, dtype=np.int64))
    return seeds, torch.from_numpy(rng.integers(-(2**31), 2**31, rows, dtype=np.int64).astype(np.int32))


def check(
    found: Sampled,
    logits: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    *,
    vocabulary: int,
    block: int,
    temperature: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    fallback: int = 0,
) -> None:
    """Token, log-probability and flags of every row equal those of float64."""
    for row, values in enumerate(logits.float().numpy()):
        allowed = None if mask is None else unpack_allowed(mask[row].numpy(), vocabulary)
        expected, flags = clean(values[:vocabulary], allowed)
        degrees = 1.0 if temperature is None else float(temperature[row])
        assert found.flags[row] == flags
        if degrees < 1e-5 or expected.max() == -np.inf:
            token, degrees = oracle_greedy(expected, fallback), 1.0
        else:
            where = seeds[row : row + 1].numpy(), positions[row : row + 1].numpy().astype(np.int64)
            token = int(oracle_draws.draw(expected, degrees, block, *where)[0])
        assert found.tokens[row] == token
        logprob = log_softmax(expected, degrees)[token]
        np.testing.assert_allclose(float(found.logprobs[row]), logprob, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_rows(dtype: torch.dtype) -> None:
    rows = list(special_rows(300).values())[:: 1 if dtype == torch.float32 else 3]
    logits = poisoned(np.stack(rows), dtype, padding=20, gap=7)
    where = places(len(logits))
    found = sample(logits, *where, vocabulary=300, fallback=299, block=128)
    check(found, logits, *where, vocabulary=300, block=128, fallback=299)


@pytest.mark.old_triton
def test_temperature_and_mask_and_greedy_rows_in_between() -> None:
    logits = poisoned(np.stack(list(special_rows(300).values())[:24]), torch.bfloat16)
    temperature = torch.tensor([0.3, 1.0, 0.0, 2.0, 9e-6, 40.0] * 4)
    mask, where = random_mask(24, 300, seed=7, words=8, gap=1), places(24)
    found = sample(logits, *where, temperature=temperature, allowed=mask, block=64, walk=2)
    check(found, logits, *where, vocabulary=300, block=64, temperature=temperature, mask=mask)


@pytest.mark.parametrize("vocabulary", [1, 2, 33, 64, 65, 1000, 2049, 5000])
def test_every_length(vocabulary: int) -> None:
    rows = special_rows(vocabulary, seed=vocabulary)
    chosen = ("normal, deviation 1.0", "nearly all forbidden", "all equal")
    logits = poisoned(np.stack([rows[name] for name in chosen]), torch.float32)
    where = places(3, seed=vocabulary)
    check(sample(logits, *where), logits, *where, vocabulary=vocabulary, block=block_size(vocabulary))


def test_a_large_vocabulary() -> None:
    logits, where = torch.randn(2, 128256, generator=torch.Generator().manual_seed(4)).bfloat16(), places(2)
    check(sample(logits, *where), logits, *where, vocabulary=128256, block=4096)


def test_greedy_rows_are_those_of_greedy() -> None:
    logits = torch.from_numpy(np.stack(list(special_rows(300).values())))
    cold = torch.tensor([0.0, 1e-6, -1.0, float("nan")])[torch.arange(len(logits)) % 4]
    found, expected = sample(logits, *places(len(logits)), temperature=cold, block=64), greedy(logits, block=64)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.logprobs, expected.logprobs)
    assert torch.equal(found.flags, expected.flags)


def test_a_temperature_of_one_is_no_temperature() -> None:
    logits, where = torch.from_numpy(np.stack(list(special_rows(300).values())[:10])), places(10)
    plain, ones = sample(logits, *where, block=64), sample(logits, *where, block=64, temperature=torch.ones(10))
    for a, b in zip(plain, ones, strict=True):
        assert torch.equal(a, b)


def draws(values: NDArray[np.float32], count: int, temperature: float, block: int) -> NDArray[np.int64]:
    """Many draws in float64 NumPy, which the tests above show to be the kernel's."""
    seeds, positions = np.arange(count) // 16, np.arange(count) % 16
    parts = [slice(first, first + 20000) for first in range(0, count, 20000)]  # memory, otherwise
    return np.concatenate([oracle_draws.draw(values, temperature, block, seeds[at], positions[at]) for at in parts])


@pytest.mark.parametrize(
    ("vocabulary", "block", "temperature", "kind"),
    [
        (64, 64, 1.0, "normal, deviation 1.0"),
        (200, 64, 0.7, "normal, deviation 1.0"),
        (512, 64, 1.0, "like a language model's"),
        (512, 256, 1.5, "normal, deviation 5.0"),
        (300, 128, 1.0, "half forbidden"),
        (300, 128, 1.0, "all equal"),
        (300, 128, 1.0, "some +inf"),
    ],
)
def test_tokens_come_in_proportion_to_their_probability(
    vocabulary: int, block: int, temperature: float, kind: str
) -> None:
    count, values = 50 * 512, special_rows(vocabulary)[kind]
    expected = softmax(values, temperature)
    observed = np.bincount(draws(values, count, temperature, block), minlength=vocabulary)
    assert chi_square(observed, expected * count) > LEAST
    assert (observed[expected * count > 30] > 0).all()


def test_the_kernel_itself_draws_in_proportion() -> None:
    """Fewer draws than above and so fewer bins, but no NumPy in between."""
    count, vocabulary = 300, 120
    values = special_rows(vocabulary)["normal, deviation 1.0"]
    logits = torch.from_numpy(values).expand(count, vocabulary)
    found = sample(logits, torch.arange(count) * 7, torch.arange(count, dtype=torch.int32) % 5, block=64)
    observed = np.bincount(found.tokens.numpy(), minlength=vocabulary)
    assert chi_square(observed, softmax(values) * count, least=50) > LEAST


def test_a_token_far_behind_wins_where_its_noise_says_so() -> None:
    """Of 4 million draws from two tokens 12 nats apart, those few that take the second: the kernel takes it too."""
    gap, count = 12.0, 4_000_000
    hits, step = [], 500_000
    for first in range(0, count, step):
        seeds = np.arange(first, first + step)[:, None]
        noise = oracle_draws.gumbel(seeds, np.zeros_like(seeds), oracle_draws.TOKEN, np.arange(2)[None])
        hits += (np.flatnonzero(noise[:, 1] - noise[:, 0] > gap) + first).tolist()
    expected = count / (1 + math.exp(gap))
    assert two_sided((len(hits) - expected) / math.sqrt(expected)) > LEAST
    logits = torch.tensor([[gap, 0.0]]).expand(len(hits), 2)
    found = sample(logits, torch.tensor(hits), torch.zeros(len(hits), dtype=torch.int32))
    assert (found.tokens == 1).all()


def test_consecutive_draws_are_independent() -> None:
    """Of one request at consecutive positions, and of requests with consecutive seeds at one position."""
    values, count = np.zeros(64, np.float32), 20000
    for seeds, positions in ((np.full(count, 3), np.arange(count)), (np.arange(count), np.full(count, 3))):
        tokens = oracle_draws.draw(values, 1.0, 64, seeds, positions).astype(float)
        correlation = np.corrcoef(tokens[1:], tokens[:-1])[0, 1]
        assert two_sided(correlation * math.sqrt(count)) > LEAST


def test_a_draw_belongs_to_seed_and_position() -> None:
    logits = torch.zeros(4, 4096)
    seeds = torch.tensor([1, 1, 2, 1 + (1 << 32)])
    at = torch.tensor([5, 6, 5, 5], dtype=torch.int32)
    tokens = sample(logits, seeds, at).tokens
    assert len(set(tokens.tolist())) == 4
    assert torch.equal(sample(logits, seeds, at).tokens, tokens)


def test_padding_changes_nothing() -> None:
    """More padding, another stride and another dtype of the same numbers: the same draws."""
    rows = np.stack([special_rows(300)["coarse"]] * 12)
    where = places(12)
    expected = sample(poisoned(rows, torch.float32), *where, block=128)
    for other in (poisoned(rows, torch.float32, padding=84, gap=3), poisoned(rows, torch.bfloat16, padding=20)):
        found = sample(other, *where, vocabulary=300, block=128)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.logprobs, expected.logprobs)


def test_outputs_and_workspace_are_used_again() -> None:
    logits, where = torch.from_numpy(np.stack(list(special_rows(200).values())[:6])), places(6)
    expected, work = sample(logits, *where, block=64), Workspace.make(9, 200, device="cpu", block=64)
    for walk in (1, 2, 4):
        out = Sampled.empty(6, logits.device)
        assert sample(logits, *where, out=out, workspace=work, block=64, walk=walk) is out
        for a, b in zip(out, expected, strict=True):
            assert torch.equal(a, b)
        assert (work.arrivals == 0).all()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"seeds": torch.zeros(3, dtype=torch.int32)}, r"seeds is .* give contiguous torch.int64 \[3\]"),
        ({"seeds": torch.zeros(1, dtype=torch.int64)}, r"seeds is .* give contiguous torch.int64 \[3\]"),
        ({"positions": torch.zeros(3, dtype=torch.int64)}, "give contiguous torch.int32"),
        ({"fallback": 4}, "give the end-of-sequence token's id"),
    ],
)
def test_bad_arguments_are_told_what_to_do(arguments: dict[str, object], advice: str) -> None:
    where = {"seeds": torch.zeros(3, dtype=torch.int64), "positions": torch.zeros(3, dtype=torch.int32)}
    with pytest.raises(ValueError, match=advice):
        sample(torch.zeros(3, 4), **(where | arguments))  # type: ignore[arg-type]
