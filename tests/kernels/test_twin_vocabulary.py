"""Twins of the vocabulary-wide kernels: the checks that the kernels have, and the same tokens as theirs."""

from __future__ import annotations

import numpy as np
import oracle_draws
import pytest
import torch
from logit_rows import VOCABULARIES, poisoned, random_mask, special_rows
from oracle_vocabulary import clean
from test_gpu_greedy import check as check_greedy
from test_gpu_logprobs import check as check_logprobs
from test_gpu_logprobs import some_tokens
from test_gpu_sample import check as check_sample
from test_gpu_sample import places
from test_gpu_softmax import check as check_softmax

from topmast_kernels.gpu import filtered, sample
from topmast_kernels.partition import block_size
from topmast_kernels.twin import filtered as filtered_twin
from topmast_kernels.twin import noise
from topmast_kernels.twin.greedy import greedy
from topmast_kernels.twin.logprobs import logprobs
from topmast_kernels.twin.sample import sample as sample_twin
from topmast_kernels.twin.softmax import softmax

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
LENGTHS = pytest.mark.parametrize("vocabulary", VOCABULARIES)
TEMPERATURES = torch.tensor([0.2, 1.0, 3.0, 0.0] * 6)


def rows_of(dtype: torch.dtype, vocabulary: int = 300) -> torch.Tensor:
    return poisoned(np.stack(list(special_rows(vocabulary).values())), dtype, padding=20, gap=7)


@DTYPES
def test_special_rows(dtype: torch.dtype) -> None:
    logits = rows_of(dtype)
    tokens, where = some_tokens(len(logits), 300), places(len(logits))
    check_greedy(greedy(logits, vocabulary=300, fallback=299), logits, 300, fallback=299)
    flags = torch.full((len(logits),), -1, dtype=torch.int32)
    check_softmax(softmax(logits, vocabulary=300, flags=flags), flags, logits, 300)
    check_logprobs(logprobs(logits, tokens, top_n=4, vocabulary=300), logits, tokens, 300)
    drawn = sample_twin(logits, *where, vocabulary=300, fallback=299, block=128)
    check_sample(drawn, logits, *where, vocabulary=300, block=128, fallback=299)


def test_temperatures_and_masks() -> None:
    logits = rows_of(torch.bfloat16)[:24, :300]
    mask, tokens, where = random_mask(24, 300, seed=7, words=8, gap=1), some_tokens(24, 300), places(24)
    flags = torch.full((24,), -1, dtype=torch.int32)
    check_greedy(greedy(logits, allowed=mask, fallback=5), logits, 300, mask, fallback=5)
    check_softmax(
        softmax(logits, temperature=TEMPERATURES, allowed=mask, flags=flags), flags, logits, 300, TEMPERATURES, mask
    )
    found = logprobs(logits, tokens, top_n=3, temperature=TEMPERATURES, allowed=mask)
    check_logprobs(found, logits, tokens, 300, TEMPERATURES, mask)
    drawn = sample_twin(logits, *where, temperature=TEMPERATURES, allowed=mask, block=64)
    check_sample(drawn, logits, *where, vocabulary=300, block=64, temperature=TEMPERATURES, mask=mask)


@LENGTHS
def test_every_length(vocabulary: int) -> None:
    rows = special_rows(vocabulary, seed=vocabulary)
    chosen = ["normal, deviation 1.0", "coarse", "nearly all forbidden", f"NaN at {vocabulary - 1}"]
    logits = poisoned(np.stack([rows[name] for name in chosen]), torch.float32)
    tokens, where = some_tokens(4, vocabulary), places(4, seed=vocabulary)
    check_greedy(greedy(logits), logits, vocabulary)
    check_logprobs(logprobs(logits, tokens, top_n=3), logits, tokens, vocabulary)
    check_sample(sample_twin(logits, *where), logits, *where, vocabulary=vocabulary, block=block_size(vocabulary))


def test_kernel_and_twin_draw_the_same_tokens() -> None:
    """Of rows so flat that another noise would draw others."""
    logits = torch.randn(8, 400, generator=torch.Generator().manual_seed(8))
    where, wish = places(8), {"temperature": torch.tensor([0.7, 1.0, 2.0, 1.0] * 2)}
    filters = {
        "top_k": torch.tensor([0, 300, 0, 40] * 2, dtype=torch.int32),
        "top_p": torch.tensor([0.9, 1.0, 0.95, 0.8] * 2),
        "min_p": torch.tensor([0.0, 0.02] * 4),
    }
    pairs = [
        (sample.sample(logits, *where, **wish, block=256), sample_twin(logits, *where, **wish, block=256)),
        (
            filtered.sample_filtered(logits, *where, **wish, **filters, block=512),
            filtered_twin.sample_filtered(logits, *where, **wish, **filters, block=512),
        ),
    ]
    for kernel, twin in pairs:
        assert torch.equal(kernel.tokens, twin.tokens) and torch.equal(kernel.flags, twin.flags)
        torch.testing.assert_close(kernel.logprobs, twin.logprobs, rtol=1e-6, atol=2e-6)
    assert torch.equal(kernel.kept, twin.kept)  # of the last pair
    assert len(set(kernel.tokens.tolist())) == 8


def test_the_noise_is_the_oracles() -> None:
    """Words to the bit, for seeds of 64 bits and positions of both signs; the published vectors; Gumbel in float32."""
    seeds, positions = places(9)
    ids = torch.cat([torch.arange(50), torch.tensor([2**17, 2**31 - 1])])
    for stream in (noise.TOKEN_STREAM, noise.BLOCK_STREAM, noise.LINE_STREAM):
        mine = noise.words(seeds, positions, stream, ids)
        theirs = oracle_draws.words(
            seeds.numpy()[:, None], positions.numpy()[:, None].astype(np.int64), stream, ids.numpy()[None]
        )
        for own, expected in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(own.numpy().astype(np.uint64), expected)
        expected = -np.log2(oracle_draws.exponential(*theirs))
        np.testing.assert_allclose(noise.gumbel2(seeds, positions, stream, ids).numpy(), expected, rtol=2e-6, atol=2e-6)
    zero = noise.philox(torch.zeros(2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    ones = noise.philox(torch.full((2,), 0xFFFFFFFF), torch.full((4,), 0xFFFFFFFF))
    assert zero.tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert ones.tolist() == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_the_smallest_and_the_greatest_draws_are_finite_and_right() -> None:
    first = torch.tensor([0, 0, 0, 1, 4095, 4096, 2**25, 2**25 - 2**18, 2**31, 2**32 - 1])
    second = torch.tensor([0, 1, 2**32 - 1, 0, 2**32 - 1, 7, 0, 5, 9, 2**32 - 1])
    mine = noise.exponential(first, second)
    expected = oracle_draws.exponential(first.numpy().astype(np.uint64), second.numpy().astype(np.uint64))
    assert (mine > 0).all() and mine.isfinite().all()
    np.testing.assert_allclose(mine.numpy(), expected, rtol=2e-6)


def test_a_row_of_nan_does_not_touch_its_neighbours() -> None:
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(9))
    alone = greedy(logits)
    logits[1] = float("nan")
    found = greedy(logits, fallback=7)
    assert found.flags.tolist() == [0, clean(logits[1].numpy())[1], 0] and found.tokens[1] == 7
    assert torch.equal(found.logprobs[::2], alone.logprobs[::2])


@pytest.mark.parametrize("vocabulary", [0, 101])
def test_a_vocabulary_that_does_not_fit_is_refused(vocabulary: int) -> None:
    with pytest.raises(ValueError, match=f"vocabulary={vocabulary} does not fit rows of 100 logits"):
        greedy(torch.zeros(2, 100), vocabulary=vocabulary)
