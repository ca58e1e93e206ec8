"""Paged attention of decode steps and of prefill chunks, against torch on keys that lie in one piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernel_bench import rivals
from kernel_bench.layers import PAGE, Widths
from kernel_bench.problem import Absent, Call, Problem
from kernel_bench.verdict import judge_close
from topmast_kernels.gpu.decode_attention import decode_attention, decode_workspace_floats
from topmast_kernels.gpu.prefill_attention import prefill_attention
from topmast_kernels.paged_cache import PagedCache
from topmast_kernels.twin.rope import quantise

DECODES = ((32, 4096), (1, 8192), (8, 4096), (128, 4096), (64, 1024))
PREFILLS = ((1, 2048), (4, 2048), (1, 8192))
JUDGED = 4  # sequences


@dataclass(frozen=True)
class Inputs:
    """query: [sequences, tokens, heads, dim]. keys, values: what is cached, [sequences, context, kv_heads, dim]."""

    query: Tensor
    cache: PagedCache
    table: Tensor
    lengths: Tensor
    keys: Tensor
    values: Tensor


def make(
    device: torch.device, sequences: int, tokens: int, context: int, widths: Widths, stored: str, seed: int
) -> Inputs:
    generator = torch.Generator(device).manual_seed(seed)
    pages = -(-context // PAGE)
    shape = (sequences * pages, PAGE, widths.kv_heads, widths.dim)
    table = torch.randperm(sequences * pages, generator=generator, device=device).view(sequences, pages).int()

    def pool() -> tuple[Tensor, Tensor | None, Tensor]:
        dense = torch.randn(shape, generator=generator, device=device).bfloat16()
        if stored == "bf16":
            return dense, None, dense[table.long()].flatten(1, 2)[:, :context]
        numbers, scales = quantise(dense.float(), torch.int8 if stored == "int8" else torch.float8_e4m3fn)
        back = (numbers.float() * scales[..., None]).bfloat16()
        return numbers, scales, back[table.long()].flatten(1, 2)[:, :context]

    (keys, key_scales, plain_keys), (values, value_scales, plain_values) = pool(), pool()
    query = torch.randn((sequences, tokens, widths.heads, widths.dim), generator=generator, device=device).bfloat16()
    lengths = torch.full((sequences,), context, dtype=torch.int32, device=device)
    cache = PagedCache(keys, values, key_scales, value_scales)
    return Inputs(query, cache, table, lengths, plain_keys, plain_values)


def problems(
    device: torch.device,
    decodes: tuple[tuple[int, int], ...] = DECODES,
    prefills: tuple[tuple[int, int], ...] = PREFILLS,
    widths: Widths | None = None,
) -> Iterator[Problem]:
    widths = Widths() if widths is None else widths
    for n, (sequences, context) in enumerate(decodes):
        for stored in ("bf16", "fp8", "int8") if n == 0 else ("bf16",):
            yield _problem("decode attention", device, sequences, 1, context, widths, stored, n)
    for n, (sequences, context) in enumerate(prefills):
        yield _problem("prefill attention", device, sequences, context, context, widths, "bf16", n)


def _problem(
    operation: str,
    device: torch.device,
    sequences: int,
    tokens: int,
    context: int,
    widths: Widths,
    stored: str,
    weight: int,
) -> Problem:
    contestants = {"topmast": _topmast, "torch, keys in one piece": _torch, "flashinfer": _flashinfer}
    number = (2 if stored == "bf16" else 1) * widths.dim + (0 if stored == "bf16" else 4)
    moved = sequences * (2 * context * widths.kv_heads * number + 4 * tokens * widths.heads * widths.dim)
    size: dict[str, int | str] = {"sequences": sequences, "tokens": tokens, "context": context, "cache": stored}
    build = partial(make, device, sequences, tokens, context, widths, stored)
    return Problem(operation, size, moved, build, contestants, _check, weight)


def _topmast(given: Inputs) -> Call:
    sequences, tokens = given.query.shape[:2]
    if tokens == 1:
        query, context = given.query[:, 0], given.keys.shape[1]
        out, lse = torch.empty_like(query), torch.empty(query.shape[:2], device=query.device)
        workspace = torch.empty(decode_workspace_floats(query, context), device=query.device)
        fixed = partial(decode_attention, query, given.cache, given.table, given.lengths, max_context=context)
        return lambda: fixed(out=out, lse=lse, workspace=workspace).out.view_as(given.query)
    query = given.query.flatten(0, 1)
    starts = torch.arange(sequences + 1, dtype=torch.int32, device=query.device) * tokens
    out, lse = torch.empty_like(query), torch.empty(query.shape[:2], device=query.device)
    fixed = partial(prefill_attention, query, given.cache, given.table, starts, given.lengths)
    return lambda: fixed(out=out, lse=lse).out.view_as(given.query)


def _torch(given: Inputs) -> Call:
    """Its keys lie in one piece and in bf16, which no server could offer: an upper bound of what paging may cost."""
    query, keys, values = (part.transpose(1, 2) for part in (given.query, given.keys, given.values))
    causal = given.query.shape[1] > 1
    function = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=causal, enable_gqa=True)
    return lambda: function(query, keys, values).transpose(1, 2)


def _flashinfer(given: Inputs) -> Call:
    if given.cache.quantised:
        raise Absent("flashinfer has no cache with a scale per token and head")
    flashinfer, device = rivals.module("flashinfer"), given.query.device
    sequences, tokens, heads, dim = given.query.shape
    pages = given.table.shape[1]
    space = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    upto = torch.arange(sequences + 1, dtype=torch.int32, device=device) * pages
    last = torch.full((sequences,), (given.keys.shape[1] - 1) % PAGE + 1, dtype=torch.int32, device=device)
    shape = (heads, given.cache.kv_heads, dim, PAGE)
    store = (given.cache.keys, given.cache.values)
    if tokens == 1:
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(space, "NHD", use_tensor_cores=True)
        wrapper.plan(upto, given.table.flatten(), last, *shape, q_data_type=given.query.dtype)
        return lambda: wrapper.run(given.query[:, 0], store).view_as(given.query)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(space, "NHD")
    starts = torch.arange(sequences + 1, dtype=torch.int32, device=device) * tokens
    wrapper.plan(starts, upto, given.table.flatten(), last, *shape, causal=True, q_data_type=given.query.dtype)
    return lambda: wrapper.run(given.query.flatten(0, 1), store).view_as(given.query)


def _check(given: Inputs, call: Call) -> str | None:
    """The first sequences and the last tokens of each, in float64."""
    query, keys, values = given.query[:JUDGED, -64:], given.keys[:JUDGED], given.values[:JUDGED]
    group, tokens, context = query.shape[2] // keys.shape[2], query.shape[1], keys.shape[1]
    wide = [part.double().repeat_interleave(group, dim=2) for part in (keys, values)]
    scores = torch.einsum("sqhd,skhd->shqk", query.double(), wide[0]) * query.shape[3] ** -0.5
    seen = torch.arange(context - tokens, context, device=query.device)[:, None]
    scores = scores.masked_fill(torch.arange(context, device=query.device) > seen, float("-inf"))
    expected = torch.einsum("shqk,skhd->sqhd", scores.softmax(dim=-1), wide[1])
    return judge_close(call()[:JUDGED, -64:].flatten(0, 1), expected.flatten(0, 1), 2e-2)
