"""How kernels are compiled: options, vector width of this CPU, and the place of the compiled code on disk.

The place depends on the kernels' sources, because numba does not notice when a kernel that another one calls has
changed. Import this before any kernel; numba reads the cache folder when a function is decorated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import binding

from topmast_kernels.cpu.cache import cache_folder

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FOLDER = cache_folder()
if _FOLDER is not None:
    numba.config.CACHE_DIR = str(_FOLDER)


def _has(*features: str) -> bool:
    forced = numba.config.CPU_FEATURES
    if forced is not None:
        return all(f"+{feature}" in forced.split(",") for feature in features)
    host = binding.get_host_cpu_features()
    return all(host.get(feature, False) for feature in features)


LANES = 16 if _has("avx512f") else 8  # float32 values in one vector
PANELS = 3  # of LANES weight rows each, in one tile
HAS_VNNI = _has("avx512f", "avx512vnni") if LANES == 16 else _has("avxvnni")  # products of bytes, four at a time
HAS_MADD = _has("avx512bw") if LANES == 16 else _has("avx2")  # products of bytes, two at a time


def kernel(*, parallel: bool = False) -> Callable[[_Function], _Function]:
    """Compile with reassociation allowed (as BLAS does) and NaN and infinity kept; release the interpreter lock."""
    options = {"reassoc", "contract", "arcp", "nsz"}
    return numba.njit(parallel=parallel, fastmath=options, nogil=True, cache=_FOLDER is not None)  # type: ignore[no-any-return]


def products_of_bytes() -> str:
    """How this CPU multiplies bytes, for the log."""
    return "VNNI" if HAS_VNNI else "multiply-add" if HAS_MADD else "plain arithmetic"
