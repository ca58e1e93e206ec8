"""Rows that are hard on the filtered sampler, its neighbours, its workspace and its arguments."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from filtered_rows import check, parameters, sampled, seeds_of
from logit_rows import VOCABULARIES, poisoned, random_mask, special_rows
from oracle_vocabulary import Filters

from topmast_kernels.gpu import filtered as gpu
from topmast_kernels.gpu.filtered_workspace import FilteredWorkspace
from topmast_kernels.twin import filtered as twin

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
WISHES = [
    Filters(0.7, top_k=7),
    Filters(1.0, top_p=0.8),
    Filters(1.0, min_p=0.3),
    Filters(1.3, top_k=30, top_p=0.9, min_p=0.01),
    Filters(1.0, top_p=0.95, min_p=0.05),
]


@pytest.fixture(params=[gpu, twin], ids=["gpu", "twin"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    chosen: ModuleType = request.param
    return chosen


@pytest.mark.parametrize("shift", [0, 1])
def test_special_rows(module: ModuleType, shift: int) -> None:
    """Ties, infinities, NaN, offsets; padding that holds NaN and great numbers, and rows apart from each other."""
    rows = special_rows(150)
    logits = poisoned(np.stack(list(rows.values())), torch.float32, padding=10, gap=3)
    wishes = (WISHES * len(rows))[shift : len(rows) + shift]
    found = sampled(module, logits, wishes, vocabulary=150, fallback=149, block=64)
    check(found, logits, wishes, vocabulary=150, fallback=149, block=64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_special_rows_in_16_bits(module: ModuleType, dtype: torch.dtype) -> None:
    rows = special_rows(150)
    logits = poisoned(np.stack(list(rows.values())), dtype)
    wishes = (WISHES * len(rows))[: len(rows)]
    check(sampled(module, logits, wishes, block=256), logits, wishes, block=256)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_length(module: ModuleType, vocabulary: int) -> None:
    rows = special_rows(vocabulary, seed=vocabulary)
    chosen = ["coarse", "like a language model's", "ascending", "half forbidden", f"NaN at {vocabulary - 1}"]
    logits = poisoned(np.stack([rows[name] for name in chosen]), torch.float16, padding=1)
    check(sampled(module, logits, WISHES, vocabulary=vocabulary), logits, WISHES, vocabulary=vocabulary)


@pytest.mark.parametrize("words", [None, 2, 0])
def test_only_allowed_tokens_are_kept(module: ModuleType, words: int | None) -> None:
    rows = np.stack(list(special_rows(150).values())[:10])
    mask, wishes = random_mask(10, 150, seed=4, words=words, gap=3), WISHES * 2
    logits = poisoned(rows, torch.float32)
    found = sampled(module, logits, wishes, allowed=mask, fallback=3, block=64)
    check(found, logits, wishes, allowed=mask, fallback=3, block=64)


def test_zeros_of_both_signs_are_equal(module: ModuleType) -> None:
    logits = torch.full((2, 70), -5.0)
    logits[:, 3], logits[:, 60], logits[:, 40] = -0.0, 0.0, 0.0
    found = sampled(module, logits, [Filters(top_k=1), Filters(top_k=2)], block=64)
    assert found.tokens[0] == 3 and int(found.tokens[1]) in (3, 40)


HARD = {
    "ascending": np.sort(np.random.default_rng(1).standard_normal(200) * 3),
    "all equal": np.full(200, 1.5),
    "one value in one bin": np.where(np.arange(200) % 2 == 0, 1.5, 1.49),
    "greatest in one column": np.where(np.arange(200) % 64 == 5, 4.0, np.linspace(0, 1, 200)),
}


@pytest.mark.parametrize("shape", HARD)
def test_more_candidates_than_the_slab_takes_change_nothing(shape: str) -> None:
    logits = torch.from_numpy(np.tile(HARD[shape].astype(np.float32), (4, 1)))
    wishes = [
        Filters(top_k=60),
        Filters(0.9, top_k=60, top_p=0.9, min_p=0.1),
        Filters(0.9, top_p=0.8),
        Filters(top_k=90),
    ]
    work = [FilteredWorkspace.make(4, 200, device="cpu", block=128, slab=size) for size in (16, 256)]
    small, large = (sampled(gpu, logits, wishes, block=128, workspace=each) for each in work)
    check(small, logits, wishes, block=128)
    for one, other in zip(small, large, strict=True):
        assert torch.equal(one, other)
    assert not any(each.any() for each in (work[0].taken, work[0].arrivals, work[0].masses))


def test_a_rows_result_has_the_same_bits_in_every_company() -> None:
    """Alone, in another order, in a batch of 16, beside rows with other filters, and with other filters switched on."""
    rng = np.random.default_rng(2)
    logits = torch.from_numpy((rng.standard_normal((16, 200)) * 3).astype(np.float32))
    wishes = [*WISHES, Filters(), Filters(0.0), Filters(top_k=1)] * 2
    seeds, positions = seeds_of(16)
    params = parameters(wishes)
    batch = gpu.sample_filtered(logits, seeds, positions, **params, block=128)
    order = torch.from_numpy(rng.permutation(16))
    shuffled = gpu.sample_filtered(
        logits[order], seeds[order], positions[order], **{k: v[order] for k, v in params.items()}, block=128
    )
    for one, other in zip(batch, shuffled, strict=True):
        assert torch.equal(one[order], other)
    neutral = {"top_k": 0, "top_p": 1, "min_p": 0, "temperature": -1}
    for row in range(8):
        at = slice(row, row + 1)
        own = {k: v[at] for k, v in params.items() if float(v[row]) != neutral[k]}
        alone = gpu.sample_filtered(logits[at], seeds[at], positions[at], **own, block=128)
        for one, other in zip(batch, alone, strict=True):
            assert torch.equal(one[at], other), wishes[row]


def test_a_batch_of_64_gives_each_row_the_bits_of_smaller_batches() -> None:
    logits = torch.randn(64, 64, generator=torch.Generator().manual_seed(6)) * 2
    wishes = ([*WISHES, Filters(), Filters(0.0)] * 10)[:64]
    (seeds, positions), params = seeds_of(64), parameters(wishes)
    whole = gpu.sample_filtered(logits, seeds, positions, **params)
    for at in (slice(0, 2), slice(5, 8), slice(31, 64)):
        part = gpu.sample_filtered(logits[at], seeds[at], positions[at], **{k: v[at] for k, v in params.items()})
        for one, other in zip(whole, part, strict=True):
            assert torch.equal(one[at], other)


def test_rows_beyond_2_to_the_31_numbers_are_found() -> None:
    vast = torch.empty(2**31 + 4096, dtype=torch.float16)
    far = vast.as_strided((2, 100), (2**31 + 64, 1))
    far.copy_(torch.randn(2, 100, generator=torch.Generator().manual_seed(7)))
    wishes = [Filters(top_k=9), Filters(top_p=0.7)]
    check(sampled(gpu, far, wishes), far, wishes)


def test_walking_several_blocks_per_program_changes_no_bit() -> None:
    logits = torch.randn(5, 180, generator=torch.Generator().manual_seed(3)) * 3
    results = [sampled(gpu, logits, WISHES, block=64, walk=walk) for walk in (1, 4)]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_outputs_and_workspace_are_used_again() -> None:
    work = FilteredWorkspace.make(5, 200, device="cpu", block=64)
    generator = torch.Generator().manual_seed(4)
    for count in (5, 2, 5):
        logits = torch.randn(count, 200, generator=generator) * 3
        out = gpu.Filtered.empty(count, logits.device)
        out.logprobs.fill_(float("nan"))
        assert sampled(gpu, logits, WISHES[:count], out=out, workspace=work, block=64) is out
        check(out, logits, WISHES[:count], block=64)
        assert not any(each.any() for each in (work.taken, work.arrivals, work.masses))


def test_seeds_and_positions_draw_anew_and_repeat_exactly(module: ModuleType) -> None:
    logits = torch.zeros(1, 64).expand(12, -1).contiguous()
    wish = parameters([Filters(top_k=50)] * 12)
    at, zero = torch.arange(12), torch.zeros(12, dtype=torch.int32)
    by_seed = module.sample_filtered(logits, at, zero, **wish).tokens
    by_position = module.sample_filtered(logits, at * 0, at.int(), **wish).tokens
    high = module.sample_filtered(logits, at << 32, zero, **wish).tokens
    again = module.sample_filtered(logits, at * 0 + 7, zero + 7, **wish).tokens
    assert all(len(set(drawn.tolist())) >= 8 for drawn in (by_seed, by_position, high))
    assert len(set(again.tolist())) == 1


def test_no_rows_are_no_work(module: ModuleType) -> None:
    assert sampled(module, torch.empty(0, 100), []).tokens.shape == (0,)


def test_bad_arguments_are_told_what_to_do() -> None:
    logits, wishes = torch.zeros(3, 40), WISHES[:3]
    with pytest.raises(ValueError, match=r"top_k is torch\.int64 \[3\].*give contiguous torch\.int32 \[3\]"):
        gpu.sample_filtered(logits, *seeds_of(3), top_k=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="make one for 3 rows of 1"):
        sampled(gpu, logits, wishes, workspace=FilteredWorkspace.make(2, 40, device="cpu"))
    with pytest.raises(ValueError, match="give a power of two of at least 16"):
        FilteredWorkspace.make(2, 40, device="cpu", slab=100)
