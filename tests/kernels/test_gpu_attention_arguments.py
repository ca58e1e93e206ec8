"""Wrong arguments of attention end in a sentence that names them, for kernels and twins alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from oracle_attention import paged

from topmast_kernels.gpu import decode_attention as gpu_decode
from topmast_kernels.gpu import prefill_attention as gpu_prefill
from topmast_kernels.paged_cache import Attention, PagedCache
from topmast_kernels.twin import decode_attention as twin_decode
from topmast_kernels.twin import prefill_attention as twin_prefill

DECODES = pytest.mark.parametrize("decode", [gpu_decode.decode_attention, twin_decode.decode_attention])
PREFILLS = pytest.mark.parametrize("prefill", [gpu_prefill.prefill_attention, twin_prefill.prefill_attention])


@DECODES
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"query": torch.zeros(2, 3, 64).bfloat16()}, "a multiple of the cache's 2 heads"),
        ({"query": torch.zeros(2, 4, 128).bfloat16()}, "must have heads of 64"),
        ({"query": torch.zeros(2, 4, 64).half()}, "does not go with a cache of torch.bfloat16"),
        ({"query": torch.zeros(2, 64, 4).bfloat16().transpose(1, 2)}, r"last in memory \(stride 1\)"),
        ({"query": torch.zeros(1, 4, 64).bfloat16()}, "query has 1 sequences and the table 2"),
        ({"query": torch.zeros(4, 64).bfloat16()}, r"must be \[sequences, heads, dim\]"),
        ({"table": torch.zeros(2, 3).long()}, r"must be int32 \[sequences, pages\]"),
        ({"lengths": torch.zeros(3).int()}, r"contiguous int32 \[2\]"),
        ({"scale": 0.0}, "must be positive"),
        ({"out": torch.zeros(2, 4, 32)}, r"\[2, 4, 64\]"),
        ({"lse": torch.zeros(2, 4).half()}, r"must be float32 \[2, 4\]"),
    ],
)
def test_wrong_arguments_of_decode(decode: Callable[..., Attention], wrong: dict[str, object], sentence: str) -> None:
    pages = paged([3, 4])
    right = {"query": torch.zeros(2, 4, 64).bfloat16(), "table": pages.table, "lengths": pages.lengths}
    decode(cache=pages.cache, **right)
    with pytest.raises(ValueError, match=sentence):
        decode(cache=pages.cache, **{**right, **wrong})


def test_wrong_blocks_of_decode() -> None:
    pages = paged([3, 4])
    query = torch.zeros(2, 4, 64).bfloat16()
    for split, block in ((64, 48), (64, 8), (96, 64), (16, 32)):
        with pytest.raises(ValueError, match=f"split {split} must be a multiple of block {block}"):
            gpu_decode.decode_attention(query, pages.cache, pages.table, pages.lengths, split=split, block=block)
    with pytest.raises(ValueError, match="use prefill_attention"):
        gpu_decode.decode_attention(torch.zeros(2, 65, 4, 64).bfloat16(), pages.cache, pages.table, pages.lengths)


def test_wrong_caches() -> None:
    keys, scales = torch.zeros(2, 16, 1, 64).to(torch.int8), torch.ones(2, 16, 1)
    good = PagedCache(keys, keys, scales, scales)
    for change, sentence in (
        ({"values": keys[:1]}, "must be alike"),
        ({"key_scales": None}, "goes with key_scales"),
        ({"value_scales": scales.half()}, r"must be float32 \[2, 16, 1\]"),
        ({"keys": keys.half(), "values": keys.half()}, "goes without key_scales"),
        ({"keys": keys.int(), "values": keys.int()}, "is not supported"),
        ({"keys": keys[..., :32], "values": keys[..., :32]}, "head dim is 32"),
        ({"keys": torch.empty_strided(keys.shape, (64, 2**28, 64, 1), dtype=torch.int8, device="meta")}, "lie over"),
        ({"keys": torch.zeros(2, 16, 64, 64).to(torch.int8).transpose(2, 3)[:, :, :1]}, "stride 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            replace(good, **change)


@PREFILLS
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"query": torch.zeros(2, 1, 4, 64).bfloat16()}, r"must be \[tokens, heads, dim\]"),
        ({"query": torch.zeros(2, 3, 64).bfloat16()}, "a multiple of the cache's 2 heads"),
        ({"starts": torch.zeros(2).int()}, r"contiguous int32 \[3\], sequences \+ 1"),
        ({"starts": torch.zeros(3).long()}, r"contiguous int32 \[3\], sequences \+ 1"),
        ({"lengths": torch.zeros(2).long()}, r"contiguous int32 \[2\]"),
        ({"scale": -1.0}, "must be positive"),
    ],
)
def test_wrong_arguments_of_prefill(prefill: Callable[..., Attention], wrong: dict[str, object], sentence: str) -> None:
    pages = paged([3, 4])
    right = {
        "query": torch.zeros(2, 4, 64).bfloat16(),
        "table": pages.table,
        "starts": torch.tensor([0, 1, 2], dtype=torch.int32),
        "lengths": pages.lengths,
    }
    prefill(cache=pages.cache, **right)
    with pytest.raises(ValueError, match=sentence):
        prefill(cache=pages.cache, **{**right, **wrong})


def test_wrong_blocks_of_prefill() -> None:
    pages = paged([3])
    query, starts = torch.zeros(1, 64, 64).bfloat16(), torch.tensor([0, 1], dtype=torch.int32)
    for rows, block in ((48, 32), (32, 48), (16, 32), (32, 8)):
        with pytest.raises(ValueError, match=f"block {block} and block_rows {rows} must be powers of two"):
            gpu_prefill.prefill_attention(
                query,
                pages.cache,
                pages.table,
                starts,
                pages.lengths,
                block_rows=rows,
                block=block,
            )
