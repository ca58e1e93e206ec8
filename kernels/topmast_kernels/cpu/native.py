"""Functions written in LLVM's own language: compiled once, kept on disk, known to compiled kernels by name.

numba compiles what a function calls anew with every caller; these are too large for that. They check nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import llvmlite
from llvmlite import binding, ir
from numba import types
from numba.core.registry import cpu_target

from topmast_kernels.cpu.cache import cache_folder

Body = Callable[..., None]  # writes a function's code, given a builder and its arguments
_I64 = ir.IntType(64)
_DIGEST_BYTES = 32
_engines: list[Any] = []  # they own the code


def link(bodies: Mapping[str, tuple[int, Body]]) -> dict[str, Any]:
    """Make functions of so many 64-bit integers each; the answers can be called in kernels, under the same names."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    kind = hashlib.sha256(f"{llvmlite.__version__} {triple} {cpu} {features} {sorted(bodies)}".encode()).hexdigest()
    folder = cache_folder()
    kept = folder / f"native-{kind[:12]}.o" if folder is not None else None
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="default"
    )
    code = _read(kept) if kept is not None else None
    if code is None:
        code = machine.emit_object(_optimised(bodies, triple, machine))
        if kept is not None:
            _keep(kept, code)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    functions = {}
    for name, (arguments, _) in bodies.items():
        symbol = f"topmast_{name}"
        binding.add_symbol(symbol, engine.get_function_address(symbol))
        functions[name] = types.ExternalFunction(symbol, types.void(*[types.int64] * arguments))
    return functions


def _optimised(bodies: Mapping[str, tuple[int, Body]], triple: str, machine: Any) -> Any:
    module = ir.Module("topmast")
    module.triple = triple
    functions = {  # all of them before any body, since bodies may call each other
        name: ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * arguments), f"topmast_{name}")
        for name, (arguments, _) in bodies.items()
    }
    for name, (_, body) in bodies.items():
        function = functions[name]
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        body(builder, *function.args)
        builder.ret_void()
    parsed = binding.parse_assembly(str(module))
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def _read(path: Path) -> bytes | None:
    """What _keep has written there; None where that is missing or damaged, which would crash the process."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    return kept[_DIGEST_BYTES:] if kept[:_DIGEST_BYTES] == hashlib.sha256(kept[_DIGEST_BYTES:]).digest() else None


def _keep(path: Path, code: bytes) -> None:
    """Whole or not at all: several processes may start at once."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(hashlib.sha256(code).digest() + code)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
