"""Makes Triton's interpreter a few times as fast without changing what it computes.

It replaces the functions of `triton.language` by its own at every call of a function inside a kernel, which is half of
its time, though once per launch is enough. It builds a table of dtypes at every operation. And it computes Philox's
hundred small steps one by one; test_gpu_noise.py shows that the NumPy form here gives the same bits.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton.language import random
from triton.runtime import interpreter

PHILOX_OF_TRITON = random.philox_impl


def install() -> None:
    """Called once, before the first kernel runs."""
    patch_language, numpy_dtype = interpreter._patch_lang, interpreter._get_np_dtype
    dtypes: dict[str, Any] = {}
    running = False

    def patch_once(fn: Any) -> Any:
        nonlocal running
        if running:
            return interpreter._LangPatchScope()
        scope = patch_language(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        restore = scope.restore

        def restore_all() -> None:
            nonlocal running
            running = False
            restore()

        scope.restore = restore_all
        running = True
        return scope

    def remembered_dtype(dtype: Any) -> Any:
        element = dtype.element_ty if isinstance(dtype, tl.block_type) else dtype
        if isinstance(element, tl.pointer_type):
            return numpy_dtype(element)
        if element.name not in dtypes:
            dtypes[element.name] = numpy_dtype(element)
        return dtypes[element.name]

    interpreter._patch_lang, interpreter._get_np_dtype = patch_once, remembered_dtype
    random.philox_impl = philox


def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any, n_rounds: Any = 10) -> tuple[Any, ...]:
    """Philox4x32 on the interpreter's tensors of uint32, in place of `triton.language.random.philox_impl`."""
    counter = np.broadcast_arrays(*(each.handle.data.astype(np.uint64) for each in (c0, c1, c2, c3)))
    first, second, third, fourth = counter
    low, high = (int(each.handle.data.item()) for each in (k0, k1))
    word = np.uint64(0xFFFFFFFF)
    for _ in range(int(getattr(n_rounds, "value", n_rounds))):
        left, right = first * np.uint64(0xD2511F53), third * np.uint64(0xCD9E8D57)
        first, second = (right >> np.uint64(32)) ^ second ^ np.uint64(low), right & word
        third, fourth = (left >> np.uint64(32)) ^ fourth ^ np.uint64(high), left & word
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    kind = max((c0, c1, c2, c3), key=lambda each: len(each.shape)).type
    return tuple(
        tl.core.tensor(interpreter.TensorHandle(each.astype(np.uint32), tl.uint32), kind)
        for each in (first, second, third, fourth)
    )
