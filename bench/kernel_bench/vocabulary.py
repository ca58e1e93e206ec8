"""Softmax, greedy choice and sampling over the vocabulary: inputs, contestants and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernel_bench import rivals
from kernel_bench.logits import DISTRIBUTIONS, make_logits
from kernel_bench.problem import Call, Problem
from kernel_bench.verdict import DRAWS, DRAWS_ON_CPU, Filters, judge_close, judge_sampler
from topmast_kernels.gpu.filtered import Filtered, sample_filtered
from topmast_kernels.gpu.filtered_workspace import FilteredWorkspace
from topmast_kernels.gpu.greedy import Greedy, greedy
from topmast_kernels.gpu.sample import Sampled, sample
from topmast_kernels.gpu.softmax import softmax
from topmast_kernels.gpu.workspace import Workspace

VOCABULARIES = (128256, 151936, 32000, 49152, 262144)
BATCHES = (1, 8, 32, 64, 128, 256)
FILTERS = {"top-k 50, top-p 0.9": Filters(50, 0.9), "top-p 0.9": Filters(0, 0.9)}


@dataclass(frozen=True)
class Inputs:
    """logits: bf16 [rows, V]. The rest has one entry per row."""

    logits: Tensor
    seeds: Tensor
    positions: Tensor
    filters: Filters

    def step(self) -> None:
        """The next position of every sequence, for new noise."""
        self.positions.add_(1)

    def tensors(self) -> tuple[Tensor | None, Tensor | None]:
        """(top_k, top_p) for our sampler; None for a filter that is off."""
        rows, device, asked = len(self.logits), self.logits.device, self.filters
        top_k = torch.full((rows,), asked.top_k, dtype=torch.int32, device=device) if asked.top_k else None
        return top_k, torch.full((rows,), asked.top_p, device=device) if asked.top_p < 1 else None


def make(kind: str, rows: int, vocabulary: int, filters: Filters, device: torch.device, seed: int) -> Inputs:
    seeds = torch.arange(rows, dtype=torch.int64, device=device) * 7919 + seed
    positions = torch.arange(rows, dtype=torch.int32, device=device)
    return Inputs(make_logits(kind, rows, vocabulary, seed, device), seeds, positions, filters)


def problems(
    device: torch.device, vocabularies: tuple[int, ...] = VOCABULARIES, batches: tuple[int, ...] = BATCHES
) -> Iterator[Problem]:
    for place, vocabulary in enumerate(vocabularies):
        for rows in batches:
            worthwhile = vocabulary == 128256 and rows in (1, 32, 256)
            size: dict[str, int | str] = {"vocabulary": vocabulary, "batch": rows}
            read = rows * vocabulary * 2
            plain = partial(make, "llm-like", rows, vocabulary, Filters(), device)
            weight = 10 * place
            yield Problem("softmax", size, 2 * read, plain, _softmaxes(worthwhile), _check_softmax, weight)
            yield Problem("greedy", size, read, plain, _greedies(worthwhile), _check_greedy, weight)
            yield Problem("sample", size, read, plain, _samplers(worthwhile), _check_sampler, weight + 1)
            for label, filters in FILTERS.items():
                for n, kind in enumerate(DISTRIBUTIONS):
                    asked = {**size, "logits": kind}
                    build = partial(make, kind, rows, vocabulary, filters, device)
                    order = weight + 2 + 3 * n
                    yield Problem(label, asked, read, build, _filtered_samplers(), _check_sampler, order)


def _softmaxes(worthwhile: bool) -> dict[str, Callable[[Inputs], Call]]:
    def topmast(given: Inputs) -> Call:
        out = torch.empty_like(given.logits)
        workspace = Workspace.make(*given.logits.shape, device=given.logits.device)
        return partial(softmax, given.logits, out=out, workspace=workspace)

    def by_rows(logits: Tensor) -> Tensor:
        return torch.softmax(logits, -1)

    def by_torch(given: Inputs) -> Call:
        return partial(by_rows, given.logits)

    def by_compiler(given: Inputs) -> Call:
        return partial(rivals.compiled(by_rows, worthwhile=worthwhile), given.logits)

    def by_liger(given: Inputs) -> Call:
        return partial(rivals.module("liger_kernel.transformers.functional").liger_softmax, given.logits)

    def by_flashinfer(given: Inputs) -> Call:
        return partial(rivals.module("flashinfer.sampling").softmax, given.logits)

    return {
        "topmast": topmast,
        "torch": by_torch,
        "torch.compile": by_compiler,
        "liger": by_liger,
        "flashinfer": by_flashinfer,
    }


def _check_softmax(given: Inputs, call: Call) -> str | None:
    rows = slice(0, 8)
    return judge_close(call()[rows], given.logits[rows].double().softmax(dim=-1), 4e-3)


def _greedies(worthwhile: bool) -> dict[str, Callable[[Inputs], Call]]:
    def topmast(given: Inputs) -> Call:
        out = Greedy.empty(len(given.logits), given.logits.device)
        workspace = Workspace.make(*given.logits.shape, device=given.logits.device)
        return lambda: greedy(given.logits, out=out, workspace=workspace)[:2]

    def chain(logits: Tensor) -> tuple[Tensor, Tensor]:
        tokens = logits.argmax(dim=-1)
        return tokens, logits.float().log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]

    def by_torch(given: Inputs) -> Call:
        return partial(chain, given.logits)

    def by_compiler(given: Inputs) -> Call:
        return partial(rivals.compiled(chain, worthwhile=worthwhile), given.logits)

    return {"topmast": topmast, "torch": by_torch, "torch.compile": by_compiler}


def _check_greedy(given: Inputs, call: Call) -> str | None:
    tokens, logprobs = call()
    wide = given.logits.double()
    chosen = wide.gather(1, tokens.long()[:, None])[:, 0]
    if not torch.equal(chosen, wide.amax(dim=1)):
        return "a token is not its row's maximum"
    error = float((logprobs.double() - (chosen - wide.logsumexp(dim=1))).abs().max())
    return None if error < 1e-3 else f"a log-probability is off by {error:.1e}"


def _samplers(worthwhile: bool) -> dict[str, Callable[[Inputs], Call]]:
    def topmast(given: Inputs) -> Call:
        out = Sampled.empty(len(given.logits), given.logits.device)
        workspace = Workspace.make(*given.logits.shape, device=given.logits.device)
        return lambda: sample(given.logits, given.seeds, given.positions, out=out, workspace=workspace).tokens

    def by_torch(given: Inputs) -> Call:
        return lambda: torch.multinomial(given.logits.float().softmax(dim=-1), 1)[:, 0]

    def race(logits: Tensor) -> Tensor:
        share = logits.float().softmax(dim=-1)
        return (share / torch.empty_like(share).exponential_(1)).argmax(dim=-1)

    def by_compiler(given: Inputs) -> Call:
        return partial(rivals.compiled(race, worthwhile=worthwhile), given.logits)

    def by_flashinfer(given: Inputs) -> Call:
        function = rivals.module("flashinfer.sampling").sampling_from_logits
        return lambda: function(given.logits.float())

    return {
        "topmast": topmast,
        "torch multinomial": by_torch,
        "torch exponential race": lambda given: partial(race, given.logits),
        "torch.compile race": by_compiler,
        "flashinfer": by_flashinfer,
    }


def _filtered_samplers() -> dict[str, Callable[[Inputs], Call]]:
    def topmast(given: Inputs) -> Call:
        out = Filtered.empty(len(given.logits), given.logits.device)
        workspace = FilteredWorkspace.make(*given.logits.shape, device=given.logits.device)
        top_k, top_p = given.tensors()
        fixed = partial(sample_filtered, given.logits, given.seeds, given.positions, out=out, workspace=workspace)
        return lambda: fixed(top_k=top_k, top_p=top_p).tokens

    def by_transformers(given: Inputs) -> Call:
        return partial(_transformers_chain, given.logits, given.filters)

    def by_flashinfer(given: Inputs) -> Call:
        sampling, asked = rivals.module("flashinfer.sampling"), given.filters
        if not asked.top_k:
            return lambda: sampling.top_p_sampling_from_probs(sampling.softmax(given.logits), asked.top_p)
        order = {"filter_apply_order": "top_k_first"}
        function = sampling.top_k_top_p_sampling_from_logits
        return lambda: function(given.logits.float(), asked.top_k, asked.top_p, **order)

    return {"topmast": topmast, "transformers": by_transformers, "flashinfer": by_flashinfer}


def _transformers_chain(logits: Tensor, filters: Filters) -> Tensor:
    """What transformers' top-k and top-p warpers and its sampling do, written out: top-k by threshold, top-p by a sort
    in ascending order, softmax, multinomial.
    """
    scores = logits.float()
    if filters.top_k:
        k = min(filters.top_k, scores.shape[1])
        scores = scores.masked_fill(scores < scores.topk(k).values[:, -1:], float("-inf"))
    ordered, ids = scores.sort(descending=False)
    removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - filters.top_p
    removed[:, -1] = False
    scores = scores.masked_fill(removed.scatter(1, ids, removed), float("-inf"))
    return torch.multinomial(scores.softmax(dim=-1), 1)[:, 0]


def _check_sampler(given: Inputs, call: Call) -> str | None:
    """Right under either way of treating ties at the k-th token; otherwise what is wrong under ours."""
    draws = DRAWS if given.logits.is_cuda else DRAWS_ON_CPU
    judged = partial(judge_sampler, given.logits, call, given.filters, next_step=given.step, draws=draws)
    wrong = judged(all_ties=False)
    return wrong and (judged(all_ties=True) and wrong)
