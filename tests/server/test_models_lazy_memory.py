"""What a KV cache costs before and while it is used."""

from __future__ import annotations

import os
from pathlib import Path

from topmast_server.models.lazy_memory import lazy_zeros

MB = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_block_takes_the_pages_that_it_lies_in_and_no_more() -> None:
    before = resident_bytes()
    cache = lazy_zeros(512 * MB)
    assert resident_bytes() - before < 4 * MB
    for first in (0, 100 * MB, 300 * MB):
        cache[first : first + MB : 4096] = 7  # a block of all layers
    assert 3 * MB <= resident_bytes() - before < 16 * MB
    assert int(cache[0]) == 7 and not cache[1 : 4 * MB : MB].any()
