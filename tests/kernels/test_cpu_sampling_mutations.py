"""Bugs in the CPU sampler that the tests' checks find, each put into a copy. The copies run uncompiled."""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
import pytest
from cpu_rows import check, draw, sampled
from mutation import Load, Mutation, assert_found
from oracle_vocabulary import Filters

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
RANDOM = np.random.default_rng(3)
# Whole numbers, so that equal logits stand at every limit.
COARSE = np.round(RANDOM.standard_normal((1, 200)) * 2).astype(np.float32)
# A peak, and lines far below it that weigh a quarter together.
FAR = np.where(np.arange(200) < 64, -np.inf, -6.3 - 0.001 * np.arange(200)).astype(np.float32)[None]
FAR[0, 5] = 0.0
FINE = (RANDOM.standard_normal((1, 200)) * 2).astype(np.float32)


def rows_pass(load: Load, row: np.ndarray, wishes: list[Filters]) -> None:
    rows = np.tile(row, (len(wishes), 1))
    check(sampled(load("cpu.sampling"), rows, wishes, block=128), rows, wishes, block=128)


def top_k(load: Load) -> None:
    rows_pass(load, COARSE, [Filters(top_k=k) for k in (3, 20, 90)])


def nucleus(load: Load) -> None:
    rows_pass(load, FINE, [Filters(top_p=p) for p in (0.3, 0.6, 0.9, 0.9999)])
    for row in (COARSE, FAR):
        rows_pass(load, row, [Filters(top_p=p) for p in (0.3, 0.6, 0.9, 0.9999)])


def composition(load: Load) -> None:
    probabilities = np.log(np.array([[0.30, 0.25, 0.24, 0.11, 0.10]], np.float32))
    rows_pass(load, probabilities, [Filters(top_k=3, top_p=0.35), Filters(top_p=0.56, min_p=0.82), Filters(min_p=0.35)])


def exact_hit(load: Load) -> None:
    kept = sampled(load("cpu.sampling"), np.zeros((2, 4), np.float32), [Filters(top_p=0.5), Filters(top_k=3)])[1]
    assert kept.tolist() == [2, 3]


def plain(load: Load) -> None:
    rows_pass(load, FINE, [Filters(1.0 + n / 4) for n in range(24)])


def odd_rows(load: Load) -> None:
    rows = np.tile(FINE, (4, 1))
    rows[0, 70], rows[1], rows[2, [5, 100]] = np.nan, -np.inf, np.inf
    rows[3] = np.where(np.arange(200) == 77, 0.5, -np.inf)
    for wish in (Filters(0.0), Filters(), Filters(top_k=3), Filters(top_p=0.9)):
        check(sampled(load("cpu.sampling"), rows, [wish] * 4, block=64), rows, [wish] * 4, block=64)


def zeros_of_both_signs(load: Load) -> None:
    rows = np.where(np.arange(200) % 3 == 0, np.float32(-0.0), np.float32(0.0))[None]
    rows_pass(load, rows, [Filters(0.0), Filters(top_k=2)])


def hopes(load: Load) -> None:
    """Candidates are passed over only if they lose."""
    rows_pass(load, FINE, [Filters(3.0, top_k=150 + n) for n in range(10)])


def seeds(load: Load) -> None:
    where = np.array([1, 1 + (1 << 32), 1, 1]), np.array([5, 5, 6, 5])
    tokens = draw(load("cpu.sampling"), np.zeros((4, 300), np.float32), [Filters(top_k=290)] * 4, *where)[0]
    assert len(set(tokens[:3].tolist())) == 3 and tokens[0] == tokens[3]


FILTERS, DRAWS, LINES = "cpu/sampling_filters.py", "cpu/sampling_draws.py", "cpu/sampling_lines.py"
MUTATIONS = [
    Mutation(
        "the limit is counted with the token",
        FILTERS,
        "if keys[i] == key and before < limit",
        "if keys[i] == key and before <= limit",
        exact_hit,
    ),
    Mutation("all ties stay", FILTERS, "if keys[i] == key and before < limit", "if keys[i] == key", top_k),
    Mutation("the bound is one too high", FILTERS, "max(bound, cut(best, ids", "max(bound, 1 + cut(best, ids", top_k),
    Mutation(
        "p of all instead of p of the k's",
        FILTERS,
        ", peak, scale)) if inside else 0.0",
        ", peak, scale))",
        composition,
    ),
    Mutation(
        "a nucleus does not end near the peak",
        FILTERS,
        "        if number < _SLICES:\n            break",
        "        break",
        nucleus,
    ),
    Mutation("lines in reach are passed over", FILTERS, "peak, scale) > -reach", "peak, scale) > -reach / 2", nucleus),
    Mutation("-inf may be drawn", FILTERS, "max(prefix - 2**31, NOWHERE)", "prefix - 2**31", odd_rows),
    Mutation("ties of other lines are this one's", DRAWS, "key, last - start, floor", "key, last, floor", top_k),
    Mutation("min-p is forgotten", DRAWS, "inside &= bits >= floor", "inside &= bits >= floor - 1.0", composition),
    Mutation("hopes are given up too early", DRAWS, "2.0 ** (32.0 - highest)", "2.0 ** (31.0 - highest)", hopes),
    Mutation("the seed's upper half is lost", DRAWS, "np.uint64(seed) >> half", "np.uint64(0)", seeds),
    Mutation(
        "lines have the blocks' noise",
        DRAWS,
        "np.int64(0), np.int64(1), np.int64(2)",
        "np.int64(0), np.int64(1), np.int64(1)",
        plain,
    ),
    Mutation(
        "blocks are neighbouring lines",
        DRAWS,
        "for line in range(block, len(x), blocks)",
        "for line in range(block, block + 1)",
        plain,
    ),
    Mutation(
        "the second line's NaN is not seen", LINES, "max(top, own), max(widest, wide)", "max(top, own), wide", odd_rows
    ),
    Mutation(
        "minus zero is less",
        LINES,
        "return int(np.int64(0 if key == -1 else key))",
        "return int(np.int64(key))",
        zeros_of_both_signs,
    ),
    Mutation("the series is cut short", LINES, "range(10, -1, -1)", "range(10, 0, -1)", nucleus),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_bug_is_found(mutation: Mutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)  # what the copy changes is put back
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert_found(mutation, tmp_path)
