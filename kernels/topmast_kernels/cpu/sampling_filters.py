"""Which tokens top-k and top-p leave of a row. No row is sorted.

Both ask for the same: the first tokens of the order (greatest logit, then lowest id) as long as what comes before them
is less than a limit, in tokens or in mass. The answer is a pair (key, last): the tokens above the key, and those at
the key with an id up to `last`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.jit import kernel
from topmast_kernels.cpu.sampling_lines import LINE, NOWHERE, bits_below, from_key, order_key, weight

_SLICES = 512
_NEAR = 5.0  # bits, beyond those of what a nucleus leaves out
_DIGIT, _DIGITS = 8, 4  # a key in bits


@kernel()
def cut(
    keys: NDArray[np.int32], ids: NDArray[np.int32], weights: NDArray[np.float64], count: np.int64, limit: float
) -> tuple[int, int]:
    """(key, last) of those of the first `count` entries, in order of id, whose preceding weight is below `limit` > 0.

    A round for each digit of the key finds the digit at which enough has come together, whatever the keys are.
    """
    sums = np.empty(1 << _DIGIT)
    prefix, before = 0, 0.0
    for turn in range(_DIGITS):
        shift = (_DIGITS - 1 - turn) * _DIGIT
        for digit in range(len(sums)):
            sums[digit] = 0.0
        for i in range(count):
            place = np.int64(keys[i]) + 2**31
            if place >> (shift + _DIGIT) == prefix:
                sums[(place >> shift) & (len(sums) - 1)] += weights[i]
        digit = len(sums) - 1
        while digit > 0 and before + sums[digit] < limit:
            before += sums[digit]
            digit -= 1
        prefix = (prefix << _DIGIT) + digit
    key, last = max(prefix - 2**31, NOWHERE), -1  # -inf is nobody's token, however far the limit is
    for i in range(count):
        if keys[i] == key and before < limit:
            before += weights[i]
            last = int(np.int64(ids[i]))
    return key, last


@kernel()
def top_k_top_p(
    x: NDArray[np.float32], best: NDArray[np.int32], peak: float, scale: float, k: int, p: float
) -> tuple[int, int]:
    """(key, last) of the first `k` tokens of x [lines, 64], or of those with less than `p` of the k's mass before them.

    best [lines] are the lines' greatest keys: at least k tokens are as great as the k-th greatest of them.
    """
    ids, keys, weights = np.empty(x.size, np.int32), np.empty(x.size, np.int32), np.empty(x.size)
    bound = NOWHERE + 1
    if k <= len(best):
        for line in range(len(best)):
            weights[line] = 1.0
        bound = max(bound, cut(best, ids, weights, np.int64(len(best)), float(k))[0])
    count = np.int64(0)
    for line in range(len(best)):
        if best[line] >= bound:
            for i in range(LINE):
                own = order_key(x[line, i])
                ids[count], keys[count], weights[count] = line * LINE + i, own, 1.0
                count += own >= bound
    key, last = cut(keys, ids, weights, count, float(k))
    if not p < 1.0:  # so is NaN
        return key, last
    mass = 0.0
    for i in range(count):
        inside = keys[i] > key or (keys[i] == key and ids[i] <= last)
        weights[i] = weight(bits_below(from_key(keys[i]), peak, scale)) if inside else 0.0
        mass += weights[i]
    return cut(keys, ids, weights, count, p * mass)


@kernel()
def nucleus(
    x: NDArray[np.float32], best: NDArray[np.int32], peak: float, scale: float, p: float, mass: float
) -> tuple[int, int]:
    """(key, last) of the tokens of x [lines, 64] whose preceding mass is less than `p` < 1 of `mass`, the whole row's.

    Masses are added up by slices of the distance to the peak, and only the slice in which the nucleus ends is looked at
    token by token. Most end near the peak, so that few lines are read. What is more than log2(tokens / (1 - p)) bits
    below the peak is in no nucleus: all of it together weighs less than what may be left out.
    """
    beyond = np.log2(x.size / (1.0 - p)) + 1.0
    lines, slices = np.empty(len(x), np.int32), np.empty(x.shape, np.int16)
    sums, count = np.empty(_SLICES + 1), np.int64(0)
    for reach in (min(_NEAR - np.log2(1.0 - p), beyond), beyond):
        count = _slice_lines(x, best, peak, scale, reach, lines, slices, sums)
        number, before, limit = 0, 0.0, p * mass
        while number < _SLICES and before + sums[number] < limit:
            before += sums[number]
            number += 1
        if number < _SLICES:
            break
    return _cut_slice(x, lines[:count], slices, number, peak, scale, limit - before)


@kernel()
def _slice_lines(
    x: NDArray[np.float32],
    best: NDArray[np.int32],
    peak: float,
    scale: float,
    reach: float,
    lines: NDArray[np.int32],
    slices: NDArray[np.int16],
    sums: NDArray[np.float64],
) -> np.int64:
    """The number of lines with a token less than `reach` bits below the peak, which `lines` takes.

    slices [lines, 64] takes their tokens' slices, _SLICES where one is out of reach; sums the mass of each slice.
    """
    weights, count = np.empty(LINE), np.int64(0)
    for number in range(len(sums)):
        sums[number] = 0.0
    for line in range(len(best)):
        if bits_below(from_key(best[line]), peak, scale) > -reach:
            lines[count] = line
            count += 1
            _slice_line(x[line], peak, scale, reach, slices[line], weights)
            for i in range(LINE):
                sums[slices[line, i]] += weights[i]
    return count


@kernel()
def _slice_line(
    x: NDArray[np.float32],
    peak: float,
    scale: float,
    reach: float,
    slices: NDArray[np.int16],
    weights: NDArray[np.float64],
) -> None:
    """Slice and weight of each token of a line. Apart from the sums, so that LLVM makes vector code of it."""
    for i in range(LINE):
        bits = bits_below(x[i], peak, scale)
        slices[i] = np.int32(min(-bits * (_SLICES / reach), np.float64(_SLICES)))
        weights[i] = weight(bits)


@kernel()
def _cut_slice(
    x: NDArray[np.float32],
    lines: NDArray[np.int32],
    slices: NDArray[np.int16],
    number: int,
    peak: float,
    scale: float,
    limit: float,
) -> tuple[int, int]:
    """(key, last) of the tokens of one slice whose preceding mass in the slice is less than `limit`."""
    size = len(lines) * LINE
    ids, keys, weights = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size)
    count = np.int64(0)
    for line in lines:
        for i in range(LINE):
            if slices[line, i] == number:
                ids[count], keys[count] = line * LINE + i, order_key(x[line, i])
                weights[count] = weight(bits_below(x[line, i], peak, scale))
                count += 1
    return cut(keys, ids, weights, count, limit)
