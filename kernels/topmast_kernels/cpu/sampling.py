"""The sampler of the CPU engine: a token for each row of logits, greedy or drawn, in one compiled call.

Twin: topmast_kernels.twin.filtered, whose tokens these are but for near-ties; its filters, its order, its noise. Work
is cut by the vocabulary alone, so a row gives the same bits alone, among others, and with any number of threads.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.jit import kernel
from topmast_kernels.cpu.sampling_draws import draw_in_levels, draw_kept
from topmast_kernels.cpu.sampling_filters import nucleus, top_k_top_p
from topmast_kernels.cpu.sampling_lines import LINE, NOWHERE, from_key, order_key, survey, weigh
from topmast_kernels.partition import block_count, checked_block

_COLDEST, _HOTTEST = 1e-5, 1e30  # as in topmast_kernels.twin.rows
_LOG2_E = math.log2(math.e)
# Below, waking a second thread costs more than it saves: 0.3 ms of work against up to 0.1 ms on busy cores.
_WORTH_THREADS = 1 << 20
_UNUSABLE, _GREEDY, _PLAIN, _TOP_K, _NUCLEUS, _MIN_P = range(6)  # how a row's token is found


@kernel()
def _kind(top: int, temperature: float, top_k: int, top_p: float, min_p: float, vocabulary: int) -> int:
    """Comparisons are such that NaN turns a filter off, and makes a temperature greedy."""
    if top <= NOWHERE:
        return _UNUSABLE
    limited = 0 < top_k < vocabulary
    if not temperature >= _COLDEST or (limited and top_k == 1) or top_p <= 0.0:
        return _GREEDY
    if limited:
        return _TOP_K
    if top_p < 1.0:
        return _NUCLEUS
    return _MIN_P if min_p > 0.0 else _PLAIN


@kernel()
def _first_at(x: NDArray[np.float32], best: NDArray[np.int32], key: int) -> int:
    """The lowest id with the row's greatest key."""
    line, i = 0, 0
    while best[line] != key:
        line += 1
    while order_key(x[line, i]) != key:
        i += 1
    return line * LINE + i


@kernel()
def _sample_row(
    x: NDArray[np.float32],
    vocabulary: int,
    blocks: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    position: int,
) -> tuple[int, int]:
    """(token, kept) of one row [lines, 64], as `sample` says."""
    best = np.empty(len(x), np.int32)
    top = survey(x, best)
    kind = _kind(top, temperature, top_k, top_p, min_p, vocabulary)
    if kind == _UNUSABLE:
        return -1, 0
    if kind == _GREEDY:
        return _first_at(x, best, top), 1
    peak, scale = from_key(np.int32(top)), _LOG2_E / min(temperature, _HOTTEST)
    key, last, mass = NOWHERE, -1, 0.0
    masses = np.empty(len(x))
    if kind in (_PLAIN, _NUCLEUS):
        mass = weigh(x, peak, scale, masses)
    if kind == _PLAIN:
        return draw_in_levels(x, peak, scale, masses, blocks, seed, position), 0
    if kind == _TOP_K:
        key, last = top_k_top_p(x, best, peak, scale, top_k, top_p)
    elif kind == _NUCLEUS:
        key, last = nucleus(x, best, peak, scale, top_p, mass)
    floor = math.log2(min(min_p, 1.0)) if min_p > 0.0 else -np.inf
    return draw_kept(x, best, peak, scale, key, last, floor, seed, position)


@kernel()
def _sample_rows(
    first: int,
    end: int,
    x: NDArray[np.float32],
    vocabulary: int,
    blocks: int,
    numbers: NDArray[np.int64],
    filters: NDArray[np.float64],
    found: NDArray[np.int64],
) -> None:
    for row in range(first, end):
        seed, position, k = numbers[row, 0], numbers[row, 1], numbers[row, 2]
        temperature, p, m = filters[row, 0], filters[row, 1], filters[row, 2]
        token, kept = _sample_row(x[row], vocabulary, blocks, temperature, k, p, m, seed, position)
        found[row, 0], found[row, 1] = token, kept


@kernel(parallel=True)
def _sample(
    x: NDArray[np.float32],
    vocabulary: int,
    blocks: int,
    numbers: NDArray[np.int64],
    filters: NDArray[np.float64],
    serial: bool,
    found: NDArray[np.int64],
) -> None:
    """found [rows, 2]: token, kept; numbers [rows, 3]: seed, position, k; filters [rows, 3]: temperature, p, min_p."""
    if serial:  # the threads need not wake up
        _sample_rows(0, len(x), x, vocabulary, blocks, numbers, filters, found)
    else:
        for row in numba.prange(len(x)):
            _sample_rows(row, row + 1, x, vocabulary, blocks, numbers, filters, found)


def sample(
    logits: NDArray[np.float32],
    seeds: NDArray[np.int64],
    positions: NDArray[np.int64],
    *,
    temperature: NDArray[np.float32],
    top_k: NDArray[np.int64],
    top_p: NDArray[np.float32],
    min_p: NDArray[np.float32],
    block: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(token, kept) of each row of logits float32 [rows, vocabulary]; everything else is [rows].

    temperature < 1e-5, top_k 1 and top_p <= 0 are greedy; top_k <= 0 or >= vocabulary, top_p >= 1 and min_p <= 0 are
    off. Of seeds all 64 bits count, of positions the lower 32. The token is -1 in a row with NaN or with nothing above
    -inf; tokens at +inf share all of the mass. `kept` is how many of the first tokens of the order were left to draw
    from: 1 for a greedy row, 0 for one without an active filter or without a token. `block` is for tests.
    """
    if logits.ndim != 2 or logits.shape[1] == 0 or logits.dtype != np.float32:
        raise ValueError(f"logits are {logits.dtype} {list(logits.shape)}; give float32 [rows, vocabulary]")
    rows, vocabulary = logits.shape
    filters = (temperature, top_k, top_p, min_p)
    if any(each.shape != (rows,) for each in (*filters, seeds, positions)):
        raise ValueError(
            f"logits have {rows} rows; give as many seeds, positions, temperatures, top_k, top_p and min_p"
        )
    # Rounded to float32, which is how the GPU's kernels and the twin take them.
    exact = np.stack((temperature, top_p, min_p), 1).astype(np.float32).astype(np.float64)
    numbers = np.stack((seeds, positions, top_k), 1).astype(np.int64)
    found = np.empty((rows, 2), np.int64)
    blocks = block_count(vocabulary, checked_block(vocabulary, block))
    tokens = logits.size + 3 * vocabulary * np.count_nonzero(temperature >= _COLDEST)  # in passes of a greedy row
    _sample(_lines(logits), vocabulary, blocks, numbers, exact, tokens < _WORTH_THREADS, found)
    return found[:, 0], found[:, 1]


def _lines(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """[rows, lines, 64], copied and filled up with -inf only where the vocabulary is no multiple of 64."""
    rows, vocabulary = logits.shape
    missing = -vocabulary % LINE
    if missing:
        logits = np.pad(logits, ((0, 0), (0, missing)), constant_values=-np.inf)
    return np.ascontiguousarray(logits).reshape(rows, (vocabulary + missing) // LINE, LINE)
