"""Bugs in the filtered sampler, its twin and the penalties that the tests' checks find, each put into a copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from filtered_rows import check, sampled
from mutation import Load, Mutation, assert_found
from oracle_vocabulary import Filters

# Whole numbers, so that equal logits stand at every limit; the lowest ids are in the last blocks' lines, too.
COARSE = torch.from_numpy(np.round(np.random.default_rng(3).standard_normal((1, 200)) * 2).astype(np.float32))
FINE = torch.randn(1, 200, generator=torch.Generator().manual_seed(5)) * 2


def kept_sets(load: Load, logits: torch.Tensor, wishes: list[Filters], module: str, slab: int = 256) -> None:
    rows = logits.expand(len(wishes), -1).contiguous()
    more = {}
    if module == "gpu.filtered":
        make = load("gpu.filtered_workspace").FilteredWorkspace.make
        more = {"workspace": make(len(wishes), rows.shape[1], device="cpu", block=64, slab=slab)}
    check(sampled(load(module), rows, wishes, block=64, **more), rows, wishes, block=64)


def top_k(load: Load) -> None:
    kept_sets(load, COARSE, [Filters(top_k=k) for k in (3, 20, 90)], "gpu.filtered")


def top_k_overflow(load: Load) -> None:
    kept_sets(load, COARSE, [Filters(top_k=50), Filters(top_k=50, top_p=0.8)], "gpu.filtered", slab=16)


def nucleus(load: Load) -> None:
    kept_sets(load, FINE, [Filters(top_p=p) for p in (0.3, 0.6, 0.95)], "gpu.filtered")


def exact_hits(load: Load) -> None:
    """Masses that floats hold exactly: four quarters, and 1 + 1/2 + 1/2 at a temperature that counts in bits."""
    bits = float(np.float32(np.log2(np.e)))
    rows = torch.tensor([[0.0, 0, 0, 0]] * 3 + [[0.0, -1, -1, float("-inf")]] * 2)
    wishes = [Filters(top_p=0.5), Filters(top_p=0.25), Filters(top_k=3, top_p=1 / 3), *[Filters(bits, top_p=0.5)] * 2]
    wishes[4] = Filters(bits, top_p=0.75)
    assert sampled(load("gpu.filtered"), rows, wishes).kept.tolist() == [2, 1, 2, 1, 2]


def ties_in_every_block(load: Load) -> None:
    """63 equal logits in the first line, one in the next block's, and a nucleus of them all."""
    logits = torch.full((1, 128), float("-inf"))
    logits[0, :64], logits[0, 64] = 1.0, 1.0
    seeds = torch.arange(5)
    wish = {"top_p": torch.full((5,), 64.5 / 65)}
    found = load("gpu.filtered").sample_filtered(logits.expand(5, -1), seeds, seeds.int(), block=64, **wish)
    assert found.kept.tolist() == [65] * 5


def composition(load: Load) -> None:
    probabilities = torch.tensor([[0.30, 0.25, 0.24, 0.11, 0.10]]).log()
    wishes = [Filters(top_k=3, top_p=0.35), Filters(top_k=4, top_p=0.65, min_p=0.5)]
    kept_sets(load, probabilities, wishes, "gpu.filtered")


def min_p(load: Load) -> None:
    kept_sets(
        load,
        FINE,
        [Filters(2.0, min_p=0.2), Filters(top_k=90, top_p=0.99, min_p=0.1), Filters(min_p=1.0)],
        "gpu.filtered",
    )


def workspace_again(load: Load) -> None:
    module, make = load("gpu.filtered"), load("gpu.filtered_workspace").FilteredWorkspace.make
    work, wishes = make(2, 200, device="cpu", block=64, slab=256), [Filters(top_k=9), Filters(top_p=0.7)]
    for logits in (FINE, COARSE):
        rows = logits.expand(2, -1).contiguous()
        check(sampled(module, rows, wishes, block=64, workspace=work), rows, wishes, block=64)
        assert not work.taken.any() and not work.masses.any()


def twin_cuts(load: Load) -> None:
    kept_sets(load, COARSE, [Filters(top_k=20), Filters(1.5, top_k=60, top_p=0.7)], "twin.filtered")
    kept_sets(load, torch.zeros(1, 4), [Filters(top_p=0.5)], "twin.filtered")


def penalties(load: Load) -> None:
    module = load("gpu.penalties")
    whole = torch.tensor([0, 1, 2, 3], dtype=torch.int32)
    touched = module.Touched(whole * 0, whole, whole == 1, (whole > 1).int() * 2, torch.tensor([500.0, 0, 0, 0]))
    logits = torch.tensor([[0.0, -1.0, 4.0, -4.0, 5.0]])
    one = torch.tensor([0.25])
    module.penalties(logits, touched, repetition=one * 8, frequency=one, presence=one)
    assert logits.tolist() == [[100.0, -2.0, 1.25, -8.75, 5.0]]


THRESHOLD, FINISH, MASS = "gpu/threshold.py", "gpu/filtered_finish.py", "gpu/filtered_mass.py"
MUTATIONS = [
    Mutation("nucleus one too long at an exact hit", THRESHOLD, "tl.maximum(wanted, 1)", "wanted + 1", exact_hits),
    Mutation("k + 1 tokens", "gpu/filtered_finish.py", "tl.int64), k, ID_BITS)", "tl.int64), k + 1, ID_BITS)", top_k),
    Mutation("equal logits by highest id", "gpu/order.py", "(-ids + NO_ID).to(tl.int64)", "ids.to(tl.int64)", top_k),
    Mutation(
        "all of equal logits at the k-th stay",
        THRESHOLD,
        "ID_ROUNDS: tl.constexpr = (ID_BITS + DIGIT - 1) // DIGIT",
        "ID_ROUNDS: tl.constexpr = 0",
        top_k,
    ),
    Mutation(
        "min-p thins out before top-p",
        "gpu/filtered_collect.py",
        'tl.where(p < 1.0, float("-inf"), floor)',
        "floor",
        composition,
    ),
    Mutation(
        "min-p left out after top-k",
        FINISH,
        "(keys != NO_KEY) & (keys >= key) & (gap >= floor)",
        "(keys != NO_KEY) & (keys >= key)",
        min_p,
    ),
    Mutation(
        "mass of all instead of what top-k left",
        FINISH,
        "mass_limit(tl.sum(units), p)",
        "mass_limit(tl.sum(units) * 2, p)",
        composition,
    ),
    Mutation("bin after the edge", MASS, "tl.cumsum(mass, 0) < limit", "tl.cumsum(mass, 0) <= limit", exact_hits),
    Mutation("mass above counts the bin", MASS, "at < complete, mass", "at <= complete, mass", nucleus),
    Mutation(
        "masses not cleared", MASS, "        tl.store(masses + at, tl.zeros((BINS,), tl.int64))\n", "", workspace_again
    ),
    Mutation(
        "slots not given back", "gpu/filtered_collect.py", "        tl.store(taken + row, 0)\n", "", workspace_again
    ),
    Mutation(
        "bound too tight",
        "gpu/filtered_bound.py",
        "column_bound(columns, k.to(tl.int64),",
        "column_bound(columns, (k // 2).to(tl.int64),",
        top_k,
    ),
    Mutation(
        "a full slab is trusted",
        "gpu/filtered_collect.py",
        "            key = row_key(source, k, p, peak, scale, ID_BITS, LINES)",
        "            key = slab_key(slab, SLAB, k, p, limit, peak, scale, ID_BITS, SLAB)",
        top_k_overflow,
    ),
    Mutation("noise by row", "gpu/filtered_draw.py", "tl.load(seeds + row)", "tl.load(seeds) + row", nucleus),
    Mutation(
        "a block is skipped by its maximum's id",
        "gpu/filtered_draw.py",
        "pack(best, block * 0) >= key",
        "pack(best, block * 0 + 199) > key",
        ties_in_every_block,
    ),
    Mutation("twin: crossing token lost", "twin/filtered.py", "total - mass < limit", "total < limit", twin_cuts),
    Mutation("twin: equals of the k-th lost", "twin/logprobs.py", "(x >= least)", "(x > least)", twin_cuts),
    Mutation(
        "bias not clamped", "gpu/penalties.py", "tl.maximum(shift, -BIAS_LIMIT), BIAS_LIMIT", "shift, 1e9", penalties
    ),
    Mutation("prompt not penalised", "gpu/penalties.py", "!= 0) | (count > 0)", "!= 0) & (count > 0)", penalties),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_bug_is_found(mutation: Mutation, tmp_path: Path) -> None:
    assert_found(mutation, tmp_path)
