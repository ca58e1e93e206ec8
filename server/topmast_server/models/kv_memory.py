"""Memory for the KV cache: zeros that cost nothing until a request reaches them."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray


def lazy_zeros(count_bytes: int) -> NDArray[np.uint8]:
    """So many zeros, in pages of 4 KiB that appear at their first use.

    NumPy asks for huge pages. A token's keys and values lie in as many places as the model has layers, so with huge
    pages the first token of a request took 300 MB and half a second for 46 KB of KV.
    """
    memory = mmap.mmap(-1, count_bytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8)
