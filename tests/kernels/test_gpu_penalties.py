"""Penalties and bias on lists of touched ids, kernel and twin, against the oracle."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from oracle_vocabulary import penalise
from torch import Tensor

from topmast_kernels.gpu import penalties as gpu
from topmast_kernels.twin import penalties as twin

ROWS, VOCABULARY = 5, 300


@pytest.fixture(params=[gpu, twin], ids=["gpu", "twin"])
def penal(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def touched_ids(penal: ModuleType, entries: int = 400) -> gpu.Touched:
    """Unique pairs of row and id, some of them of no row or no id."""
    generator = torch.Generator().manual_seed(3)
    pairs = torch.randperm((ROWS + 2) * (VOCABULARY + 40), generator=generator)[:entries]
    rows, ids = pairs // (VOCABULARY + 40) - 1, pairs % (VOCABULARY + 40) - 20
    counts = torch.randint(0, 4, (entries,), generator=generator)
    bias = torch.randn(entries, generator=generator) * 80
    prompt = torch.rand(entries, generator=generator) < 0.5
    touched: gpu.Touched = penal.Touched(rows.int(), ids.int(), prompt, counts.int(), bias)
    return touched


def wishes() -> dict[str, Tensor]:
    return {
        "repetition": torch.tensor([1.0, 1.3, 0.7, 2.0, 1.1]),
        "frequency": torch.tensor([0.0, 0.5, -0.3, 2.0, 0.1]),
        "presence": torch.tensor([0.0, 0.0, 1.5, -2.0, 0.7]),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.old_triton
def test_every_step_is_the_oracles_to_the_bit(penal: ModuleType, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    logits = (torch.randn(ROWS, 2 * VOCABULARY) * 6).to(dtype)[:, :VOCABULARY]  # rows that are not adjacent
    logits[0, 7], logits[1, 9] = float("-inf"), float("inf")
    touched, given, params = touched_ids(penal), logits.float().numpy().copy(), wishes()
    result = penal.penalties(logits, touched, **params)
    assert result is logits
    for row in range(ROWS):
        mine = touched.rows == row
        expected = penalise(
            given[row],
            touched.ids[mine].numpy().astype(np.int64),
            prompt=touched.prompt[mine].numpy(),
            counts=touched.counts[mine].numpy().astype(np.int64),
            bias=touched.bias[mine].numpy(),
            **{key: float(value[row]) for key, value in params.items()},
        )
        assert torch.equal(logits[row].float(), torch.from_numpy(expected).to(dtype).float()), row


def test_ids_beyond_the_vocabulary_or_of_no_row_touch_nothing(penal: ModuleType) -> None:
    store = torch.full((ROWS + 2, VOCABULARY + 20), 7.0)
    logits = store[1:-1, 10 : VOCABULARY + 10]
    rows = torch.tensor([-1, ROWS, 0, 0, 1], dtype=torch.int32)
    ids = torch.tensor([3, 3, -1, 250, 249], dtype=torch.int32)
    one = torch.ones(5, dtype=torch.int32)
    touched = penal.Touched(rows, ids, one.bool(), one, torch.full((5,), 9.0))
    penal.penalties(logits, touched, vocabulary=250)
    changed = (store != 7.0).nonzero().tolist()
    assert changed == [[2, 259]]


def test_what_was_saved_comes_back_to_the_bit(penal: ModuleType) -> None:
    torch.manual_seed(2)
    logits = (torch.randn(ROWS, VOCABULARY) * 6).bfloat16()
    before, touched = logits.clone(), touched_ids(penal)
    saved = torch.zeros(len(touched.ids), dtype=logits.dtype)
    penal.penalties(logits, touched, saved=saved, **wishes())
    assert not torch.equal(logits, before)
    penal.restore(logits, touched, saved)
    assert torch.equal(logits, before)


def test_features_that_are_off_change_nothing(penal: ModuleType) -> None:
    torch.manual_seed(2)
    logits = torch.randn(ROWS, VOCABULARY)
    before, touched = logits.clone(), touched_ids(penal)._replace(bias=None)
    penal.penalties(logits, touched)
    neutral = {"repetition": torch.ones(ROWS), "frequency": torch.zeros(ROWS), "presence": torch.zeros(ROWS)}
    penal.penalties(logits, touched, **neutral)
    assert torch.equal(logits, before)


def test_wrong_lists_are_refused_in_a_sentence() -> None:
    touched = touched_ids(gpu)
    with pytest.raises(ValueError, match=r"counts is torch\.int64 \[400\]; give contiguous torch\.int32 \[400\]"):
        gpu.penalties(torch.zeros(ROWS, VOCABULARY), touched._replace(counts=touched.counts.long()))
