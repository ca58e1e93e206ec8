"""Bugs in the attention kernels, each put into a copy of the package, that these checks find."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mutation import Load, Mutation, assert_found
from oracle_attention import Pages, attention, paged
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DECODE, SPLITS, TILE = "gpu/decode_attention.py", "gpu/decode_splits.py", "gpu/attention_tile.py"
PREFILL, MERGE = "gpu/prefill_attention.py", "gpu/merge.py"
SMALL = {"split": 64, "block": 32}


def close(out: Tensor, lse: Tensor, query: Tensor, pages: Pages, sequence: int, visible: int) -> None:
    wanted, wanted_lse = attention(query, visible, pages.keys[sequence], pages.values[sequence], 0.125)
    assert torch.allclose(out.double(), torch.from_numpy(wanted), atol=6e-3, rtol=6e-3)
    assert torch.allclose(lse.double(), torch.from_numpy(wanted_lse), atol=1e-4)


def decode_is_right(load: Load, lengths: list[int], tokens: int = 1, **cache: object) -> None:
    pages = paged(lengths, **{"kv_heads": 1, **cache})  # type: ignore[arg-type]
    heads = 2 * pages.cache.kv_heads
    query = torch.randn(len(lengths), tokens, heads, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    decode = load("gpu.decode_attention").decode_attention
    out, lse = decode(query, pages.cache, pages.table, pages.lengths, **SMALL)
    for sequence, length in enumerate(lengths):
        for token in range(tokens):
            visible = length - (tokens - 1 - token)
            close(out[sequence, token], lse[sequence, token], query[sequence, token], pages, sequence, visible)


def decode_of_one_tile(load: Load) -> None:
    decode_is_right(load, [20])


def decode_of_several_tiles(load: Load) -> None:
    decode_is_right(load, [70])


def decode_of_two_heads(load: Load) -> None:
    decode_is_right(load, [20], kv_heads=2)


def decode_of_int8(load: Load) -> None:
    decode_is_right(load, [33], dtype=torch.int8)


def decode_of_several_tokens(load: Load) -> None:
    """The first token of the first sequence sees nothing."""
    decode_is_right(load, [1, 34], tokens=2)


def decode_past_its_limit_is_nan(load: Load) -> None:
    pages = paged([20], kv_heads=1)
    query = torch.ones(1, 2, 64).bfloat16()
    out, lse = load("gpu.decode_attention").decode_attention(
        query, pages.cache, pages.table, pages.lengths, max_context=19, **SMALL
    )
    assert out.isnan().all()
    assert lse.isnan().all()


def decode_is_the_same_with_a_wider_table(load: Load) -> None:
    pages = paged([130], kv_heads=1, spare_pages=20)
    query = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    decode = load("gpu.decode_attention").decode_attention
    wide = decode(query, pages.cache, pages.table, pages.lengths, **SMALL)
    narrow = decode(query, pages.cache, pages.table[:, :12], pages.lengths, **SMALL)
    assert torch.equal(wide.lse, narrow.lse)
    assert torch.equal(wide.out, narrow.out)


def prefill_is_right(load: Load) -> None:
    """Blocks of 16 tokens; the last sequence's chunk is longer than its context."""
    counts, lengths = [5, 18, 2], [5, 40, 1]
    pages = paged(lengths, kv_heads=1)
    query = torch.randn(sum(counts), 2, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    starts = torch.tensor([0, 5, 23, 25], dtype=torch.int32)
    buffers = {"out": torch.full(query.shape, torch.nan), "lse": torch.full(query.shape[:2], torch.nan)}
    prefill = load("gpu.prefill_attention").prefill_attention
    out, lse = prefill(query, pages.cache, pages.table, starts, pages.lengths, block_rows=32, block=32, **buffers)
    row = 0
    for sequence, count in enumerate(counts):
        for token in range(count):
            close(out[row], lse[row], query[row], pages, sequence, lengths[sequence] - (count - 1 - token))
            row += 1


def merging_is_right(load: Load) -> None:
    """One row of two parts, one with an empty part that was never written."""
    part = load("paged_cache").Attention
    first = part(torch.ones(2, 1, 64), torch.tensor([[1.0], [2.0]]))
    second = part(torch.full((2, 1, 64), 3.0), torch.tensor([[2.0], [-torch.inf]]))
    second.out[1] = torch.nan
    out, lse = load("gpu.merge").merge_attention(first, second)
    shares = torch.tensor([1.0, 2.0]).softmax(0)
    assert torch.allclose(out[0], shares[0] + 3 * shares[1])
    assert torch.equal(out[1], first.out[1])
    assert torch.allclose(lse[:, 0], torch.tensor([torch.tensor([1.0, 2.0]).logsumexp(0), 2.0]))


MUTATIONS = [
    Mutation(
        "the guard for -inf is dropped",
        TILE,
        'tl.where(score == float("-inf"), 0.0, tl.exp2((score - best) * sharpness))',
        "tl.exp2((score - best) * sharpness)",
        decode_of_several_tokens,
    ),
    Mutation(
        "slots that nobody owns are read as values",
        TILE,
        "v = fetch(value_at, inside[:, None], MASKED)",
        "v = fetch(value_at, inside[:, None], False)",
        decode_of_one_tile,
    ),
    Mutation(
        "slots that nobody owns are read as scales",
        TILE,
        "value_scale = fetch(value_scale_at, inside, MASKED)",
        "value_scale = fetch(value_scale_at, inside, False)",
        decode_of_int8,
    ),
    Mutation(
        "the key's scale is left out", TILE, "scores = scores * key_scale[None, :]", "scores = scores", decode_of_int8
    ),
    Mutation(
        "the weights' sum includes the values' scales",
        TILE,
        "weights = weights * value_scale[None, :]",
        "weights = weights * value_scale[None, :]\n            total = tl.sum(weights, 1)",
        decode_of_int8,
    ),
    Mutation(
        "earlier tiles are not rescaled", TILE, "acc * shrink[:, None])", "acc)", decode_of_several_tiles
    ),
    Mutation("the LSE is a log2", TILE, "tl.log2(divisor)) * LN_2", "tl.log2(divisor))", decode_of_one_tile),
    Mutation(
        "an empty row is no exception", TILE, "empty = total == 0.0", "empty = total != total", decode_of_several_tokens
    ),
    Mutation(
        "the page table is not looked up",
        TILE,
        "page = fetch(table + at // PAGE, inside, MASKED).to(tl.int64)",
        "page = (at // PAGE).to(tl.int64)",
        decode_of_several_tiles,
    ),
    Mutation(
        "query heads are dealt out in turn",
        SPLITS,
        "head = kv_head * GROUP + row % GROUP",
        "head = row % GROUP * KV_HEADS + kv_head",
        decode_of_two_heads,
    ),
    Mutation(
        "a token does not see itself",
        SPLITS,
        "visible = length - (TOKENS - 1) + token",
        "visible = length - TOKENS + token",
        decode_of_several_tokens,
    ),
    Mutation(
        "a started tile counts as full",
        SPLITS,
        "tl.maximum(tl.minimum(end, seen_by_all) - first, 0) // KEYS * KEYS",
        "(tl.maximum(tl.minimum(end, seen_by_all) - first, 0) + KEYS - 1) // KEYS * KEYS",
        decode_of_one_tile,
    ),
    Mutation(
        "the last split is left out",
        SPLITS,
        "live = tl.cdiv(tl.where(fits, length, 0), SPLIT)",
        "live = tl.where(fits, length, 0) // SPLIT",
        decode_of_several_tiles,
    ),
    Mutation(
        "splits are joined without their weights",
        SPLITS,
        "tl.sum(accs * weights[:, None], 0)",
        "tl.sum(accs, 0)",
        decode_of_several_tiles,
    ),
    Mutation(
        "a length over the limit is served",
        SPLITS,
        "fits = length <= limit\n    length = ",
        "fits = length == length\n    length = ",
        decode_past_its_limit_is_nan,
    ),
    Mutation(
        "the number of splits is fixed, not their length",
        DECODE,
        "    splits = max(1, math.ceil(limit / split))\n    floats",
        "    split = max(block, limit // 4 // block * block)\n    splits = math.ceil(limit / split)\n    floats",
        decode_is_the_same_with_a_wider_table,
    ),
    Mutation(
        "a prompt's token does not see itself",
        PREFILL,
        "visible = length - count + 1 + token",
        "visible = length - count + token",
        prefill_is_right,
    ),
    Mutation(
        "a prompt's tokens see the keys after them",
        PREFILL,
        "seen_by_all = tl.maximum(length - count + 1 + token_first, 0)",
        "seen_by_all = length",
        prefill_is_right,
    ),
    Mutation(
        "the search for a block's sequence is off by one",
        PREFILL,
        "TOKENS + middle <= block",
        "TOKENS + middle < block",
        prefill_is_right,
    ),
    Mutation(
        "the grid lacks the blocks that sequences leave half empty",
        PREFILL,
        "(tokens // tokens_at_once + sequences, cache.kv_heads)",
        "(tokens // tokens_at_once + 1, cache.kv_heads)",
        prefill_is_right,
    ),
    Mutation(
        "an empty part is merged",
        MERGE,
        'second_out = tl.where((second_log == float("-inf"))[:, None], 0.0, second_out)',
        "second_out = second_out",
        merging_is_right,
    ),
    Mutation(
        "merged parts are not normalised",
        MERGE,
        "second_out * second_share[:, None]) / divisor[:, None]",
        "second_out * second_share[:, None])",
        merging_is_right,
    ),
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_bug_is_found(mutation: Mutation, tmp_path: Path) -> None:
    assert_found(mutation, tmp_path)
