"""The kernels of decode attention: one walks a split of a sequence's keys, the other joins a row's splits."""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.attention_tile import attend, finish, share
from topmast_kernels.gpu.common import narrow


# Numbers that change from step to step must not be compiled in: a request would wait for the compiler.
@triton.jit(do_not_specialize=["limit", "splits", "table_sequence"])
def attend_splits(
    query,
    out,
    lse,
    partial_acc,
    partial_best,
    partial_total,
    lengths,
    table,
    keys,
    values,
    key_scales,
    value_scales,
    sharpness,
    limit,
    splits,
    table_sequence,
    query_sequence,
    query_token,
    query_head,
    out_sequence,
    out_token,
    out_head,
    lse_sequence,
    lse_token,
    lse_head,
    key_page,
    key_slot,
    key_head,
    value_page,
    value_slot,
    value_head,
    key_scale_page,
    key_scale_slot,
    key_scale_head,
    value_scale_page,
    value_scale_slot,
    value_scale_head,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    SPLIT: tl.constexpr,
    KEYS: tl.constexpr,
    CAUSAL: tl.constexpr,
    ALONE: tl.constexpr,
):
    """Program (sequence x KV head, split): all query rows of that head over SPLIT keys. ALONE: there is one split."""
    sequence = (tl.program_id(0) // KV_HEADS).to(tl.int64)
    kv_head = (tl.program_id(0) % KV_HEADS).to(tl.int64)
    split = tl.program_id(1)
    length = tl.load(lengths + sequence)
    # A length that the table cannot hold is answered with NaN instead of a read behind the table.
    fits = length <= limit
    length = tl.where(fits, length, 0)
    first = split * SPLIT
    if not ALONE and first >= length:
        return

    row = tl.arange(0, ROWS)
    token = row // GROUP
    head = kv_head * GROUP + row % GROUP
    real = token < TOKENS
    dims = tl.arange(0, DIM)
    query_at = query + sequence * query_sequence + token * query_token + head * query_head
    q = tl.load(query_at[:, None] + dims[None, :], mask=real[:, None], other=0.0)

    if CAUSAL:
        visible = length - (TOKENS - 1) + token
        seen_by_all = length - (TOKENS - 1)
    else:
        visible = length + tl.zeros([ROWS], tl.int32)
        seen_by_all = length
    end = tl.minimum(first + SPLIT, length)
    full_end = first + tl.maximum(tl.minimum(end, seen_by_all) - first, 0) // KEYS * KEYS
    table += sequence * table_sequence
    keys += kv_head * key_head
    values += kv_head * value_head
    if key_scales is not None:
        key_scales += kv_head * key_scale_head
        value_scales += kv_head * value_scale_head
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    best, total, acc = attend(
        q, best, total, acc, first, full_end, visible, table,
        keys, key_page, key_slot, values, value_page, value_slot,
        key_scales, key_scale_page, key_scale_slot, value_scales, value_scale_page, value_scale_slot,
        sharpness, PAGE, KEYS, False,
    )  # fmt: skip
    best, total, acc = attend(
        q, best, total, acc, full_end, end, visible, table,
        keys, key_page, key_slot, values, value_page, value_slot,
        key_scales, key_scale_page, key_scale_slot, value_scales, value_scale_page, value_scale_slot,
        sharpness, PAGE, KEYS, True,
    )  # fmt: skip

    if ALONE:
        answer, log_sum = finish(best, total, acc, sharpness)
        answer = tl.where(fits, answer, float("nan"))
        log_sum = tl.where(fits, log_sum, float("nan"))
        out_at = out + sequence * out_sequence + token * out_token + head * out_head
        tl.store(out_at[:, None] + dims[None, :], narrow(answer, out.dtype.element_ty), mask=real[:, None])
        tl.store(lse + sequence * lse_sequence + token * lse_token + head * lse_head, log_sum, mask=real)
    else:
        at = ((sequence * TOKENS + token) * (KV_HEADS * GROUP) + head) * splits + split
        tl.store(partial_acc + at[:, None] * DIM + dims[None, :], acc, mask=real[:, None])
        tl.store(partial_best + at, best, mask=real)
        tl.store(partial_total + at, total, mask=real)


@triton.jit(do_not_specialize=["limit", "splits"])
def join_splits(
    out,
    lse,
    partial_acc,
    partial_best,
    partial_total,
    lengths,
    sharpness,
    limit,
    splits,
    out_sequence,
    out_token,
    out_head,
    lse_sequence,
    lse_token,
    lse_head,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    DIM: tl.constexpr,
    SPLIT: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Program (sequence x token, head): that row's live splits in index order, AT_ONCE together."""
    sequence = (tl.program_id(0) // TOKENS).to(tl.int64)
    token = tl.program_id(0) % TOKENS
    head = tl.program_id(1)
    length = tl.load(lengths + sequence)
    fits = length <= limit
    live = tl.cdiv(tl.where(fits, length, 0), SPLIT)
    row = ((sequence * TOKENS + token) * HEADS + head) * splits
    dims = tl.arange(0, DIM)
    best = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([1, DIM], tl.float32)
    for start in range(0, live, AT_ONCE):
        at = start + tl.arange(0, AT_ONCE)
        inside = at < live
        bests = tl.load(partial_best + row + at, mask=inside, other=float("-inf"))
        totals = tl.load(partial_total + row + at, mask=inside, other=0.0)
        accs = tl.load(partial_acc + (row + at)[:, None] * DIM + dims[None, :], mask=inside[:, None], other=0.0)
        higher = tl.maximum(best, tl.max(bests, 0))
        weights = share(bests, higher, sharpness)
        shrink = share(best, higher, sharpness)
        total = total * shrink + tl.sum(totals * weights, 0)
        acc = acc * shrink[:, None] + tl.sum(accs * weights[:, None], 0)[None, :]
        best = higher
    answer, log_sum = finish(best, total, acc, sharpness)
    answer = tl.where(fits, answer, float("nan"))
    log_sum = tl.where(fits, log_sum, float("nan"))
    out_at = out + sequence * out_sequence + token * out_token + head * out_head + tl.arange(0, 1)
    tl.store(out_at[:, None] + dims[None, :], narrow(answer, out.dtype.element_ty))
    tl.store(lse + sequence * lse_sequence + token * lse_token + head * lse_head + tl.arange(0, 1), log_sum)
