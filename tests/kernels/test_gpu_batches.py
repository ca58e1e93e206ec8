"""A row's bits are its own: alone, anywhere in a batch of any size, beside any other rows, in every operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from logit_rows import random_mask, special_rows
from torch import Tensor

from topmast_kernels.gpu.greedy import greedy
from topmast_kernels.gpu.logprobs import logprobs
from topmast_kernels.gpu.sample import sample
from topmast_kernels.gpu.softmax import softmax
from topmast_kernels.gpu.stats import stats

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
VOCABULARY, BLOCK, MOST = 200, 128, 64
OPTIONS = ("temperature", "allowed")

Rows = dict[str, Tensor]
Operation = Callable[[Rows], Iterable[Tensor | None]]


def shared(rows: Rows, *names: str) -> dict[str, Tensor]:
    return {name: rows[name] for name in names}


OPERATIONS: dict[str, Operation] = {
    "stats": lambda rows: stats(ids=True, columns=True, block=BLOCK, **shared(rows, "logits", *OPTIONS)),
    "greedy": lambda rows: greedy(block=BLOCK, **shared(rows, "logits", "allowed")),
    "softmax, blocks": lambda rows: (softmax(block=BLOCK, **shared(rows, "logits", *OPTIONS)),),
    "softmax, one program": lambda rows: (softmax(**shared(rows, "logits", *OPTIONS)),),
    "logprobs": lambda rows: logprobs(top_n=2, block=BLOCK, **shared(rows, "logits", "tokens", *OPTIONS)),
    "sample": lambda rows: sample(block=BLOCK, **shared(rows, "logits", "seeds", "positions", *OPTIONS)),
}


@pytest.fixture(scope="module")
def batch() -> Rows:
    """64 rows, special and ordinary ones, with temperatures (some greedy), masks and seeds of their own."""
    kinds = list(special_rows(VOCABULARY).values())
    more = [special_rows(VOCABULARY, seed)["like a language model's"] for seed in range(1, MOST + 1 - len(kinds))]
    rng = np.random.default_rng(5)
    mask = random_mask(MOST, VOCABULARY, seed=5)
    mask[::3] = -1
    return {
        "logits": torch.from_numpy(np.stack(kinds + more)),
        "temperature": torch.from_numpy(rng.choice([0.0, 0.3, 1.0, 2.0], MOST).astype(np.float32)),
        "allowed": mask,
        "seeds": torch.from_numpy(rng.integers(0, 2**63, MOST)),
        "positions": torch.from_numpy(rng.integers(0, 1000, MOST).astype(np.int32)),
        "tokens": torch.from_numpy(rng.integers(0, VOCABULARY, MOST).astype(np.int32)),
    }


def run(operation: str, rows: Rows, which: Tensor) -> list[Tensor]:
    found = OPERATIONS[operation]({name: tensor[which] for name, tensor in rows.items()})
    return [tensor for tensor in found if tensor is not None]


def same_bits(a: list[Tensor], b: list[Tensor]) -> None:
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_a_row_has_the_same_bits_in_every_batch(operation: str, batch: Rows) -> None:
    together = run(operation, batch, torch.arange(MOST))
    order = torch.randperm(MOST, generator=torch.Generator().manual_seed(1))
    for which in (order[:24], order[24:31], order[31:34], order[34:36], order[36:37], order[37:38]):
        same_bits(run(operation, batch, which), [tensor[which] for tensor in together])


def test_seeds_and_not_rows_make_the_draw(batch: Rows) -> None:
    """The same request in every row draws one token; with seeds of their own the rows draw many."""
    alike = {name: tensor[-1:].expand(24, *tensor.shape[1:]).contiguous() for name, tensor in batch.items()}
    alike |= {"logits": torch.zeros(24, VOCABULARY), "temperature": torch.ones(24)}
    assert len(set(run("sample", alike, torch.arange(24))[0].tolist())) == 1
    alike["seeds"] = torch.arange(24)
    assert len(set(run("sample", alike, torch.arange(24))[0].tolist())) > 5


def test_rows_two_billion_numbers_apart() -> None:
    """Where a row begins needs 64 bits. The memory between the rows is never touched, so never taken."""
    near = torch.from_numpy(np.stack([special_rows(VOCABULARY)["coarse"]] * 2)).half()
    near[1, 77] = 30.0
    vast = torch.empty(2**31 + 4096, dtype=torch.float16)
    far, out = (vast[start:].as_strided((2, VOCABULARY), (2**31 + 64, 1)) for start in (0, 1024))
    far.copy_(near)
    seeds, places = torch.tensor([4, 5]), torch.zeros(2, dtype=torch.int32)
    same_bits(list(greedy(far)), list(greedy(near)))
    same_bits(list(sample(far, seeds, places)), list(sample(near, seeds, places)))
    same_bits(list(logprobs(far, places, top_n=2)), list(logprobs(near, places, top_n=2)))
    for block in (None, BLOCK):
        assert torch.equal(softmax(far, out=out, block=block), softmax(near, block=block))
