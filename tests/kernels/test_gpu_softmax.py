"""Probabilities of rows against float64: both kernels, every dtype, and rows that others get wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from logit_rows import VOCABULARIES, poisoned, random_mask, special_rows
from oracle_vocabulary import clean, greedy, unpack_allowed
from oracle_vocabulary import softmax as oracle_softmax

from topmast_kernels.gpu.softmax import softmax
from topmast_kernels.gpu.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BLOCKS = pytest.mark.parametrize("block", [None, 128], ids=["one program", "blocks of 128"])
HALF_ULP = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # of the value, at most
SMALLEST = {torch.float16: 2.0**-14, torch.bfloat16: 2.0**-126}


def check(
    found: torch.Tensor,
    flags: torch.Tensor,
    logits: torch.Tensor,
    vocabulary: int,
    temperature: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> None:
    assert (found[:, vocabulary:] == 0).all()
    for row, values in enumerate(logits.float().numpy()):
        allowed = None if mask is None else unpack_allowed(mask[row].numpy(), vocabulary)
        expected, wanted = clean(values[:vocabulary], allowed)
        assert flags[row] == wanted
        degrees = 1.0 if temperature is None else float(temperature[row])
        if degrees < 1e-5:
            shares = np.zeros(vocabulary)
            shares[greedy(expected)] = expected.max() > -np.inf
        else:
            shares = oracle_softmax(expected, degrees)
        mine = found[row, :vocabulary].double().numpy()
        if found.dtype == torch.float32:
            assert np.linalg.norm(mine - shares) <= 1e-6 * np.linalg.norm(shares)
            assert abs(mine.sum() - shares.sum()) < 1e-5
        else:
            normal = shares > 2 * SMALLEST[found.dtype]
            assert (np.abs(mine - shares)[normal] <= shares[normal] * HALF_ULP[found.dtype] * 1.0001).all()
            assert (np.abs(mine - shares)[~normal] <= SMALLEST[found.dtype]).all()


@pytest.mark.old_triton
@BLOCKS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_rows(dtype: torch.dtype, block: int | None) -> None:
    logits = poisoned(np.stack(list(special_rows(300).values())), dtype, padding=20, gap=7)
    flags = torch.full((len(logits),), -1, dtype=torch.int32)
    out = torch.full((len(logits), 400), float("nan"), dtype=dtype)[:, :320]
    assert softmax(logits, vocabulary=300, out=out, flags=flags, block=block) is out
    check(out, flags, logits, 300)


@BLOCKS
def test_temperature_and_mask(block: int | None) -> None:
    logits = poisoned(np.stack(list(special_rows(300).values())[:18]), torch.bfloat16)
    temperature = torch.tensor([0.1, 0.7, 1.0, 2.0, 0.0, 1e-6] * 3)
    mask = random_mask(18, 300, seed=4, words=7, gap=1)
    flags = torch.empty(18, dtype=torch.int32)
    out = torch.empty(18, 300)
    softmax(logits, temperature=temperature, allowed=mask, out=out, flags=flags, block=block)
    check(out, flags, logits, 300, temperature, mask)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_length(vocabulary: int) -> None:
    rows = special_rows(vocabulary, seed=vocabulary)
    logits = poisoned(np.stack([rows["like a language model's"], rows["NaN at 0"]]), torch.float32, padding=5)
    for block in (None, 1024):
        flags = torch.empty(2, dtype=torch.int32)
        check(softmax(logits, vocabulary=vocabulary, flags=flags, block=block), flags, logits, vocabulary)


def test_a_large_vocabulary() -> None:
    logits = torch.randn(1, 32001, generator=torch.Generator().manual_seed(2)) * 3
    flags = torch.empty(1, dtype=torch.int32)
    work = Workspace.make(1, 32001, device="cpu")
    check(softmax(logits, flags=flags, workspace=work), flags, logits, 32001)


@BLOCKS
def test_it_works_in_place(block: int | None) -> None:
    logits = torch.from_numpy(np.stack(list(special_rows(300).values())))
    apart = softmax(logits, block=block)
    assert torch.equal(softmax(logits, out=logits, block=block), apart)


@BLOCKS
def test_a_shift_of_all_logits_changes_no_bit(block: int | None) -> None:
    logits = torch.randint(-64, 64, (3, 300), generator=torch.Generator().manual_seed(3)) / 8
    expected = softmax(logits, block=block)
    for shift in (1024.0, -4096.0, 65536.0):
        assert torch.equal(softmax(logits + shift, block=block), expected)


def test_outputs_that_do_not_fit_are_refused() -> None:
    for out in (torch.empty(2, 4), torch.empty(3, 4, dtype=torch.int32), torch.empty(4, 3).T):
        with pytest.raises(ValueError, match="with rows in one piece"):
            softmax(torch.zeros(3, 4), out=out)
    assert softmax(torch.empty(0, 7)).shape == (0, 7)
