"""Compile every kernel for this CPU and keep it: `python -m topmast_kernels.cpu.compile`.

For images, and for the engine's first start on a machine, which serves with torch until this is done.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.cache import cache_folder, mark_complete, openmp_folder, seed_folder


def load_all() -> None:
    """Call every kernel once on tiny arrays of the types that the server uses; from the cache where it has them."""
    from topmast_kernels.cpu import decoder, sampling
    from topmast_kernels.cpu.formats import Format, row_bytes
    from topmast_kernels.cpu.layout import Layout, Paged
    from topmast_kernels.cpu.packing import Packed, pack
    from topmast_kernels.cpu.table import matrix_table

    heads, kv_heads, size, width = 2, 1, 32, 32
    hidden = heads * size

    def matrices(count: int, rows: int, columns: int) -> tuple[NDArray[np.int64], list[Packed]]:
        raw = np.zeros((rows, row_bytes(Format.Q8_0, columns)), np.uint8)
        kept = [pack(raw, Format.Q8_0, columns) for _ in range(count)]
        return matrix_table(kept)[None], kept

    layout = Layout(heads, kv_heads, size, 16, half=True, interleaved=False)
    attention_in, kept_a = matrices(1, (heads + 2 * kv_heads) * size, hidden)
    attention_out, kept_b = matrices(1, hidden, hidden)
    mlp_in, kept_c = matrices(2, width, hidden)
    mlp_out, kept_d = matrices(1, hidden, width)
    norms, angles = np.zeros((1, 2, hidden), np.float32), np.zeros((1, size // 2), np.float32)
    weights = decoder.Weights(
        attention_in, attention_out, mlp_in, mlp_out, mlp_in[0], norms, norms[0, 0], np.full(1, 1e-5, np.float32)
    )
    cache = np.zeros((1, 2 * kv_heads * layout.block_size * size * 2), np.uint8)
    paged = Paged(np.array([[0, 0, 1, 0]]), np.zeros((1, 1), np.int32), angles, angles, cache)
    scratch, x = decoder.new_scratch(1, hidden, layout, width), np.zeros((1, hidden), np.float32)
    logits = np.empty((1, 2 * width), np.float32)
    decoder.forward(x, np.zeros(1, np.int64), weights, paged, layout, False, 1, scratch, logits)
    one, whole = np.ones(1, np.float32), np.ones(1, np.int64)
    sampling.sample(x, whole, whole, temperature=one, top_k=whole, top_p=one, min_p=one)
    del kept_a, kept_b, kept_c, kept_d  # the tables hold addresses; the weights had to live until here


def main() -> int:
    """Fill the cache, with `--seed` the one that an image brings along; print where and how long it took."""
    if sys.argv[1:] == ["--seed"]:
        os.environ["NUMBA_CACHE_DIR"] = str(seed_folder())
    folder = cache_folder()
    if folder is None:
        print("No folder for compiled kernels can be written; set NUMBA_CACHE_DIR to one that can.", file=sys.stderr)
        return 1
    started = time.monotonic()
    load_all()
    mark_complete()
    openmp_folder()  # made here too, for images whose file system is read-only later
    print(f"CPU kernels are in {folder} after {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
