"""What comes with sampling and attention: log-probabilities, penalties, merging of partial attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernel_bench.logits import make_logits
from kernel_bench.problem import Call, Problem
from kernel_bench.verdict import judge_close
from topmast_kernels.gpu.logprobs import Logprobs, logprobs
from topmast_kernels.gpu.merge import merge_attention
from topmast_kernels.gpu.penalties import Touched, penalties, restore
from topmast_kernels.gpu.workspace import Workspace
from topmast_kernels.paged_cache import Attention

TOP_N = 20
TOUCHED = 200  # ids of a row that its prompt or output contains
BIAS = 5.0


def problems(
    device: torch.device, vocabularies: tuple[int, ...] = (128256,), batches: tuple[int, ...] = (1, 32, 256)
) -> Iterator[Problem]:
    for vocabulary in vocabularies:
        for n, rows in enumerate(batches):
            yield _logprobs(device, rows, vocabulary, n)
            yield _penalties(device, rows, vocabulary, n)
    for n, rows in enumerate(batches):
        yield _merge(device, rows, n)


@dataclass(frozen=True)
class Chosen:
    logits: Tensor
    tokens: Tensor


def _logprobs(device: torch.device, rows: int, vocabulary: int, weight: int) -> Problem:
    def make(seed: int) -> Chosen:
        logits = make_logits("llm-like", rows, vocabulary, seed, device)
        return Chosen(logits, logits.argsort(dim=1, descending=True, stable=True)[:, 7 % vocabulary].int())

    def topmast(given: Chosen) -> Call:
        out = Logprobs.empty(rows, TOP_N, device)
        workspace = Workspace.make(rows, vocabulary, device=device, top_n=True)
        fixed = partial(logprobs, given.logits, given.tokens, top_n=TOP_N, out=out, workspace=workspace)
        return lambda: (fixed().logprobs, out.ranks, out.top_logprobs)

    def chain(given: Chosen) -> tuple[Tensor, Tensor, Tensor]:
        wide = given.logits.float().log_softmax(dim=-1)
        own = wide.gather(1, given.tokens.long()[:, None])
        before = (wide > own) | ((wide == own) & (torch.arange(vocabulary, device=device) < given.tokens[:, None]))
        return own[:, 0], before.sum(dim=1) + 1, wide.topk(TOP_N).values

    def check(given: Chosen, call: Call) -> str | None:
        own, ranks, best = call()
        expected = given.logits.double().log_softmax(dim=-1)
        if not bool((ranks == 8).all()):
            return "a rank is wrong"
        wrong = judge_close(own[:, None], expected.gather(1, given.tokens.long()[:, None]), 1e-4)
        return wrong or judge_close(best, expected.topk(TOP_N).values, 1e-4)

    contestants = {
        "topmast": topmast,
        "torch": lambda given: partial(chain, given),
    }
    size: dict[str, int | str] = {"vocabulary": vocabulary, "batch": rows}
    return Problem("logprob, rank, top 20", size, rows * vocabulary * 2, make, contestants, check, weight)


@dataclass(frozen=True)
class Patched:
    logits: Tensor
    touched: Touched
    saved: Tensor
    strength: Tensor


def _penalties(device: torch.device, rows: int, vocabulary: int, weight: int) -> Problem:
    count = min(TOUCHED, vocabulary)

    def make(seed: int) -> Patched:
        logits = make_logits("llm-like", rows, vocabulary, seed, device)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.stack([torch.randperm(vocabulary, generator=generator)[:count] for _ in range(rows)]).int()
        where = torch.arange(rows, dtype=torch.int32).repeat_interleave(count)
        often = torch.randint(0, 3, (rows * count,), generator=generator, dtype=torch.int32)
        bias = torch.full((rows * count,), BIAS)
        parts = (where, ids.flatten(), often == 0, often, bias)
        touched = Touched(*(part.to(device) for part in parts))
        return Patched(logits, touched, logits.new_empty(rows * count), torch.full((rows,), 0.5, device=device))

    def topmast(given: Patched) -> Call:
        """Replays change the logits again and again, which takes no longer."""
        wish = {"frequency": given.strength, "presence": given.strength, "saved": given.saved}
        return partial(penalties, given.logits, given.touched, **wish)

    def check(given: Patched, call: Call) -> str | None:
        before = given.logits.clone()
        call()
        at, often = (given.touched.rows, given.touched.ids), given.touched.counts.float()
        expected = before[at].float() + BIAS - 0.5 * often - 0.5 * (often > 0)
        wrong = judge_close(given.logits[at][None], expected[None], 1e-2)
        restore(given.logits, given.touched, given.saved)
        return wrong or (None if torch.equal(given.logits, before) else "the logits were not put back")

    size: dict[str, int | str] = {"vocabulary": vocabulary, "batch": rows, "touched": count}
    return Problem("penalties", size, rows * count * 30, make, {"topmast": topmast}, check, weight)


def _merge(device: torch.device, rows: int, weight: int) -> Problem:
    heads, dim = 32, 128

    def make(seed: int) -> tuple[Attention, Attention]:
        generator = torch.Generator(device).manual_seed(seed)
        out = torch.randn(2, rows, heads, dim, generator=generator, device=device).bfloat16()
        lse = torch.randn(2, rows, heads, generator=generator, device=device)
        return Attention(out[0], lse[0]), Attention(out[1], lse[1])

    def topmast(given: tuple[Attention, Attention]) -> Call:
        out, lse = torch.empty_like(given[0].out), torch.empty_like(given[0].lse)
        return partial(merge_attention, *given, out=out, lse=lse)

    def chain(given: tuple[Attention, Attention]) -> Attention:
        share = torch.stack([part.lse for part in given]).softmax(dim=0)[..., None]
        out = (given[0].out * share[0] + given[1].out * share[1]).to(given[0].out.dtype)
        return Attention(out, torch.logaddexp(given[0].lse, given[1].lse))

    def check(given: tuple[Attention, Attention], call: Call) -> str | None:
        found = call()
        share = torch.stack([part.lse.double() for part in given]).softmax(dim=0)[..., None]
        expected = given[0].out.double() * share[0] + given[1].out.double() * share[1]
        wrong = judge_close(found.lse, torch.logaddexp(given[0].lse.double(), given[1].lse.double()), 1e-5)
        return wrong or judge_close(found.out, expected, 1e-2)

    contestants = {"topmast": topmast, "torch": lambda given: partial(chain, given)}
    size: dict[str, int | str] = {"tokens": rows, "heads": heads, "lanes": dim}
    return Problem("merge attention", size, 3 * rows * heads * (dim * 2 + 4), make, contestants, check, weight)
