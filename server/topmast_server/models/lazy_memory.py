"""Memory for weights and the KV cache: zeros that cost nothing until somebody writes there."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray


def lazy_zeros(count_bytes: int) -> NDArray[np.uint8]:
    """So many zeros, in pages that appear at their first use; huge ones where the system has them.

    All layers of a KV block lie together, so a huge page is soon full, and attention over scattered blocks looks up few
    addresses. Private: shared memory, mmap's default in Python, gets no huge pages.
    """
    memory = mmap.mmap(-1, count_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
