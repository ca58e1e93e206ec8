"""Keys order as tokens do: value descending, id ascending; and each token of a row has one place in one block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from topmast_kernels.gpu.lines import LINE, block_lines
from topmast_kernels.gpu.order import first_best, pack, unpack_id, unpack_value
from topmast_kernels.partition import BLOCK, block_count, block_size, checked_block


@triton.jit
def _keys(values, ids, keys, values_back, ids_back, best, N: tl.constexpr):
    at = tl.arange(0, N)
    value, token = tl.load(values + at), tl.load(ids + at)
    key = pack(value, token)
    tl.store(keys + at, key)
    tl.store(values_back + at, unpack_value(key))
    tl.store(ids_back + at, unpack_id(key))
    greatest, first = first_best(value, token)
    tl.store(best, (greatest == unpack_value(tl.max(key))).to(tl.int32))
    tl.store(best + 1, first)


@triton.jit
def _places(out, blocks, vocabulary, LINES: tl.constexpr):
    tokens = block_lines(tl.program_id(0), blocks, LINES)[:, None] * LINE + tl.arange(0, LINE)[None, :]
    tl.atomic_add(out + tokens, 1, mask=tokens < vocabulary)


@pytest.mark.old_triton
def test_keys_order_as_lexsort_does() -> None:
    rng = np.random.default_rng(2)
    values = rng.choice(
        np.array([-np.inf, -3e38, -1.0, -1e-38, -0.0, 0.0, 1e-38, 0.5, 2.0, 3e38, np.inf], np.float32), 1024
    )
    values[::3] = rng.standard_normal(len(values[::3]))
    ids = np.concatenate([rng.permutation(1000), 2**31 - 2 - np.arange(24)]).astype(np.int32)
    keys, back, ids_back = torch.empty(1024, dtype=torch.int64), torch.empty(1024), torch.empty(1024, dtype=torch.int32)
    best = torch.empty(2, dtype=torch.int32)
    _keys[(1,)](torch.from_numpy(values), torch.from_numpy(ids), keys, back, ids_back, best, N=1024)
    order = np.lexsort((ids, -values.astype(np.float64)))
    assert np.array_equal(np.argsort(-keys.numpy(), kind="stable"), order)
    assert np.array_equal(back.numpy(), values) and np.array_equal(ids_back.numpy(), ids)
    assert best.tolist() == [1, ids[order[0]]]


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 127, 128, 129, 1000, 4096, 4097, 32001])
@pytest.mark.parametrize("block", [None, 128])
def test_every_token_lies_in_one_block(vocabulary: int, block: int | None) -> None:
    size = checked_block(vocabulary, block)
    blocks, out = block_count(vocabulary, size), torch.zeros(vocabulary, dtype=torch.int32)
    _places[(blocks,)](out, blocks, vocabulary, LINES=size // LINE.value)
    assert (out == 1).all()


def test_the_block_is_a_function_of_the_vocabulary() -> None:
    assert [block_size(vocabulary) for vocabulary in (1, 64, 65, 4095, 4097, 262144)] == [
        64,
        64,
        128,
        4096,
        BLOCK,
        BLOCK,
    ]
    with pytest.raises(ValueError, match="give the model's vocabulary"):
        checked_block(0, None)
