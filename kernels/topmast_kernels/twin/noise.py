"""The noise of `topmast_kernels.gpu.noise` in torch: the same words to the bit, the same draws to the last digits.

Philox4x32-10 (Salmon et al., 2011), key = the request's 64-bit seed, counter = (position, id, stream, 0). A draw
belongs to these and to nothing else: not to a row, a batch or a call.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOKEN_STREAM = 0
BLOCK_STREAM = 1
LINE_STREAM = 2

LOG2_E = 1.4426950408889634
_LN_2 = 0.6931471805599453
_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(key: Tensor, counter: Tensor) -> Tensor:
    """The four uint32 words of each counter, as int64 [4, ...].

    key: int64 [2, ...], counter: int64 [4, ...], both with values of 32 bits and with shapes that broadcast.
    """
    # A round also swaps the two halves of its result. Instead, every other round works with swapped halves.
    multipliers = [_column(pair, key) for pair in (_MULTIPLIERS, _MULTIPLIERS[::-1])]
    turns = torch.arange(_ROUNDS, device=key.device).view(-1, *[1] * key.ndim)
    keys = (key + turns * _column(_KEY_STEPS, key)) & _LOW
    keys[::2] = keys[::2].flip(1)
    even, odd = counter[0::2], counter[1::2]
    for turn in range(_ROUNDS):
        product = even * multipliers[turn % 2]  # wraps in 64 bits, which is the product of two 32-bit words
        even = ((product >> 32) & _LOW) ^ odd.flip(0) ^ keys[turn]
        odd = product & _LOW
    return torch.stack((even[0], odd[0], even[1], odd[1]))


def words(seeds: Tensor, positions: Tensor, stream: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The first two words, int64 [rows, n], for int64 seeds [rows], positions [rows] and ids [rows, n] or [n]."""
    ids = ids.long().expand(len(seeds), -1)
    key = torch.stack((seeds & _LOW, (seeds >> 32) & _LOW))[:, :, None]
    place = (positions.long() & _LOW)[:, None].expand_as(ids)
    counter = torch.stack((place, ids, torch.full_like(ids, stream), torch.zeros_like(ids)))
    drawn = philox(key, counter)
    return drawn[0], drawn[1]


def exponential(first: Tensor, second: Tensor) -> Tensor:
    """Exponential float32 > 0 and finite from two words: -ln(1 - u), u = (first + 0.5) / 2**32.

    Below u = 2**-20 `second` extends u to 64 bits, so that a token may win from more than 22 nats behind.
    """
    wide = first.float() * 2.0**-32 + (second.float() + 0.5) * 2.0**-64
    u = torch.where(first < 4096, wide, (first.float() + 0.5) * 2.0**-32)
    rest = ((first ^ _LOW).float() + 0.5) * 2.0**-32  # 1 - u without cancellation: never 0
    series = u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * 0.25)))
    return torch.where(u < 2.0**-7, series, -rest.log2() * _LN_2)


def gumbel2(seeds: Tensor, positions: Tensor, stream: int, ids: Tensor) -> Tensor:
    """Gumbel noise in bits, float32 [rows, n], to be added to log2 weights: the greatest sum is a draw from them."""
    first, second = words(seeds, positions, stream, ids)
    return -exponential(first, second).log2()


def _column(pair: tuple[int, int], like: Tensor) -> Tensor:
    """The pair along the first dimension of `like`."""
    return torch.tensor(pair, dtype=torch.int64, device=like.device).view(2, *[1] * (like.ndim - 1))
