"""What a KV cache costs before and while it is used."""

from __future__ import annotations

import os
from pathlib import Path

from topmast_server.models.kv_memory import lazy_zeros

MB = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_token_takes_the_pages_that_it_is_written_to_and_no_more() -> None:
    before = resident_bytes()
    cache = lazy_zeros(512 * MB)
    assert resident_bytes() - before < 4 * MB
    cache[:: 2 * MB] = 7  # a place in each of 256 layers, say
    assert resident_bytes() - before < 16 * MB
    assert int(cache[:: 2 * MB].min()) == 7 and not cache[1 : 4 * MB : MB].any()
