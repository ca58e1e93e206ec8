"""Partials of blocks, and what they give when put together, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from logit_rows import VOCABULARIES, poisoned, random_mask, special_rows
from numpy.typing import NDArray
from oracle_vocabulary import clean, gaps, unpack_allowed

from topmast_kernels.gpu.stats import Stats, stats
from topmast_kernels.partition import LINE, block_count, block_size

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def tokens_of_block(block: int, size: int, vocabulary: int) -> NDArray[np.int64]:
    """[lines, 64] ids, those from `vocabulary` on included."""
    blocks = block_count(vocabulary, size)
    return ((np.arange(size // LINE) * blocks + block) * LINE)[:, None] + np.arange(LINE)


def check(found: Stats, logits: torch.Tensor, vocabulary: int, size: int, mask: torch.Tensor | None = None) -> None:
    for row, values in enumerate(logits.float().numpy()):
        allowed = None if mask is None else unpack_allowed(mask[row].numpy(), vocabulary)
        expected, _ = clean(values[:vocabulary], allowed)
        padded = np.full(block_count(vocabulary, size) * size, np.float32(-np.inf))
        padded[:vocabulary] = expected
        nan = np.zeros(len(padded), bool)
        nan[:vocabulary] = np.isnan(values[:vocabulary])
        for block in range(block_count(vocabulary, size)):
            ids = tokens_of_block(block, size, vocabulary)
            mine = padded[ids]
            assert found.maxima[row, block] == mine.max()
            total = np.exp(gaps(mine.reshape(-1))).sum()
            np.testing.assert_allclose(float(found.sums[row, block]), total, rtol=2e-6)
            assert found.nans[row, block] == nan[ids].any()
            if found.ids is not None:
                assert found.ids[row, block] == ids[mine == mine.max()].min()
            if found.columns is not None:
                assert np.array_equal(found.columns[row, block].numpy(), mine.max(0))


@pytest.mark.old_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_partials_of_special_rows(dtype: torch.dtype) -> None:
    logits = poisoned(np.stack(list(special_rows(300).values())), dtype, padding=20, gap=7)
    check(stats(logits, vocabulary=300, ids=True, columns=True, block=128), logits, 300, 128)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_partials_at_every_length(vocabulary: int) -> None:
    rows = special_rows(vocabulary, seed=vocabulary)
    logits = poisoned(np.stack([rows["normal, deviation 1.0"], rows["NaN, +inf and -inf"]]), torch.float32, padding=3)
    mask = random_mask(2, vocabulary, seed=vocabulary, words=max(1, vocabulary // 32), gap=2)
    size = block_size(vocabulary)
    found = stats(logits, vocabulary=vocabulary, allowed=mask, ids=True)
    check(found, logits, vocabulary, size, mask)


def test_a_large_vocabulary() -> None:
    logits = torch.randn(1, 128256, generator=torch.Generator().manual_seed(1)).bfloat16()
    check(stats(logits, ids=True, columns=True), logits, 128256, 4096)


def test_temperature_scales_the_sums_alone() -> None:
    rows = np.stack([special_rows(200)["normal, deviation 5.0"]] * 5)
    temperature = torch.tensor([0.3, 2.0, 0.0, 9e-6, float("inf")])
    plain, scaled = (
        stats(torch.from_numpy(rows), block=64),
        stats(torch.from_numpy(rows), temperature=temperature, block=64),
    )
    assert torch.equal(plain.maxima, scaled.maxima)
    assert torch.equal(plain.sums[2:4], scaled.sums[2:4])  # too cold: greedy, at T = 1
    counts = [64, 64, 64, 8]
    assert scaled.sums[4].tolist() == counts  # too hot: uniform
    for row in (0, 1):
        for block in range(4):
            values = rows[row, block * 64 : block * 64 + 64]
            expected = np.exp(gaps(values) / float(temperature[row])).sum()
            np.testing.assert_allclose(float(scaled.sums[row, block]), expected, rtol=2e-6)


@pytest.mark.parametrize("walk", [2, 3, 5, 8])
def test_the_number_of_blocks_that_a_program_walks_changes_no_bit(walk: int) -> None:
    logits = torch.from_numpy(np.stack(list(special_rows(500).values())[:6]))
    one, several = (stats(logits, ids=True, columns=True, block=128, walk=each) for each in (1, walk))
    for a, b in zip(one, several, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)


def test_given_outputs_are_filled_and_nothing_else() -> None:
    logits = torch.from_numpy(np.stack(list(special_rows(300).values())[:3]))
    out = Stats.empty(5, 3, logits.device, ids=True, columns=True)
    for tensor in out:
        assert tensor is not None
        tensor.fill_(7)
    found = stats(logits, out=out, block=128)
    assert found is out
    check(found, logits, 300, 128)
    for tensor in out:
        assert tensor is not None and (tensor[3:] == 7).all()


def test_no_rows_are_no_work() -> None:
    assert stats(torch.empty(0, 100)).maxima.shape == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"logits": torch.zeros(3, 4, dtype=torch.float64)}, "give float32, float16 or bfloat16"),
        ({"logits": torch.zeros(4)}, r"give float32, float16 or bfloat16 \[rows, V\]"),
        ({"logits": torch.zeros(4, 3).T}, "call .contiguous"),
        ({"vocabulary": 5}, "give 1 to 4, or None"),
        ({"vocabulary": 0}, "give 1 to 4, or None"),
        ({"block": 96}, "give a power of two of at least 64"),
        ({"block": 32}, "give a power of two of at least 64"),
        ({"temperature": torch.ones(2)}, r"give contiguous torch.float32 \[3\]"),
        ({"temperature": torch.ones(6)[::2]}, "give contiguous torch.float32"),
        ({"allowed": torch.zeros(2, 1, dtype=torch.int32)}, "give int32"),
        ({"allowed": torch.zeros(3, 1, dtype=torch.int64)}, "give int32"),
        ({"allowed": torch.zeros(2, 3, dtype=torch.int32).T}, "call .contiguous"),
        ({"out": Stats.empty(2, 1, torch.device("cpu"), ids=False, columns=False)}, r"Stats.empty\(3, 1"),
    ],
)
def test_bad_arguments_are_told_what_to_do(arguments: dict[str, object], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        stats(**({"logits": torch.zeros(3, 4)} | arguments))  # type: ignore[arg-type]
