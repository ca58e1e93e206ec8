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


def _has_avx512() -> bool:
    forced = numba.config.CPU_FEATURES
    if forced is not None:
        return "+avx512f" in forced
    return bool(binding.get_host_cpu_features().get("avx512f", False))


LANES = 16 if _has_avx512() else 8  # float32 values in one vector
ROW_TILE = 4  # weight rows whose sums live in registers at once
BATCH_TILE = 4 if LANES == 16 else 3  # batch rows likewise: 4 x 4 of 32 registers, or 4 x 3 of 16


def kernel(*, parallel: bool = False) -> Callable[[_Function], _Function]:
    """Compile with reassociation allowed (as BLAS does) and NaN and infinity kept; release the interpreter lock."""
    options = {"reassoc", "contract", "arcp", "nsz"}
    return numba.njit(parallel=parallel, fastmath=options, nogil=True, cache=_FOLDER is not None)  # type: ignore[no-any-return]
