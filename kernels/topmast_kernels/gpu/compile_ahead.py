"""Compiles the table of kernels without a GPU and reads registers, stack and load widths from the machine code.

    python -m topmast_kernels.gpu.compile_ahead --capability 90 [--only MODULE...]

prints one JSON object. It is a program of its own because Triton decides at import whether functions are compiled or
interpreted, and because it replaces Triton's driver by one that has no device. Compiled code is kept in Triton's cache
for the next run of the same sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from topmast_kernels.gpu.compile_table import Case, cases_of, kernel_modules, launched_kernels, load

# 16 bytes per instruction, in PTX and in the machine code: into registers, into shared memory, or by the copy engine.
WIDE_IN_PTX = re.compile(
    r"\bld\.global[.:\w]*\.(v4\.\w32|v2\.\w64)\b|\bcp\.async\.\w+\.shared\.global[^;]*0x10|\bcp\.async\.bulk\."
)
WIDE_IN_CODE = re.compile(r"\bLDG(STS)?\.E[.\w]*\.128\b|\bUTMALDG\b")
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


@dataclass(frozen=True)
class Compiled:
    """One kernel of one case. Registers and stack are per thread, shared memory per CTA; a spill counts as stack.

    wide_loads are counted in PTX. Disassembling takes longer than compiling, so it confirms them once per kernel.
    """

    module: str
    case: str
    kernel: str
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    wide_loads: int
    wide_loads_in_code: int | None
    wide_loads_wanted: bool


class _NoDevice:
    """What Triton asks its driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def cuobjdump() -> Path:
    """The disassembler in Triton's wheel."""
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def dump(cubin: Path, what: str) -> str:
    run = subprocess.run([str(cuobjdump()), what, str(cubin)], capture_output=True, text=True, check=True)
    return run.stdout + run.stderr


def resources(cubin: Path) -> tuple[int, int]:
    """(registers, stack and local bytes) per thread of the one kernel in `cubin`."""
    found = RESOURCES.search(dump(cubin, "-res-usage"))
    if found is None:
        raise RuntimeError(f"{cuobjdump()} -res-usage reported nothing; see whether this Triton has another one")
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def compile_all(capability: int, only: list[str]) -> dict[str, Any]:
    """{"compiled": [...], "failed": [...], "without_case": [...]}; the last are kernels that no case starts."""
    driver.set_active(_NoDevice(capability))
    started: dict[int, Any] = {}

    def compile_only(function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(function, *args, grid=grid, warmup=True, **options)
        started[id(kernel)] = kernel
        return kernel

    launch = JITFunction.run
    JITFunction.run = compile_only
    done, failed, without = [], [], []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in only or kernel_modules():
                confirmed: set[str] = set()
                seen: set[str] = set()
                try:
                    module = load(name)
                except Exception as error:
                    failed.append({"module": name, "case": "import", "error": f"{type(error).__name__}: {error}"})
                    continue
                for case in cases_of(module, capability):
                    started.clear()
                    try:
                        case.call()
                    except Exception as error:
                        failed.append({"module": name, "case": case.title, "error": f"{type(error).__name__}: {error}"})
                    kernels = list(started.values())
                    done += [_describe(name, case, kernel, confirmed, Path(folder)) for kernel in kernels]
                    names = {kernel.name for kernel in kernels}
                    seen |= names
                    for absent in sorted(set(case.wide) - names):
                        failed.append({"module": name, "case": case.title, "error": f"the case starts no {absent}"})
                without += [f"{name}.{kernel}" for kernel in sorted(launched_kernels(module) - seen)]
    finally:
        JITFunction.run = launch
    return {"compiled": [asdict(each) for each in done], "failed": failed, "without_case": without}


def _describe(module: str, case: Case, kernel: Any, confirmed: set[str], folder: Path) -> Compiled:
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    registers, stack = resources(cubin)
    wanted, in_code = kernel.name in case.wide, None
    if wanted and kernel.name not in confirmed:
        confirmed.add(kernel.name)
        in_code = len(WIDE_IN_CODE.findall(dump(cubin, "-sass")))
    return Compiled(
        module=module,
        case=case.title,
        kernel=kernel.name,
        warps=kernel.metadata.num_warps,
        registers=registers,
        stack_bytes=stack,
        shared_bytes=kernel.metadata.shared,
        wide_loads=len(WIDE_IN_PTX.findall(kernel.asm["ptx"])),
        wide_loads_in_code=in_code,
        wide_loads_wanted=wanted,
    )


def cache_folder() -> Path:
    """Where the code compiled from these very sources is kept; that of other sources is removed.

    Triton's keys know a kernel's source, its arguments and the target, so nothing stale can be read.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "topmast"
    digest = hashlib.sha256(triton.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    folder = base / f"triton-{triton.__version__}-{digest.hexdigest()[:12]}"
    for other in base.glob(f"triton-{triton.__version__}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="80 for A100, 90 for H100 and H200")
    parser.add_argument("--only", nargs="*", default=[], help="modules, by default all")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET=1 is set, so nothing would be compiled; unset it for this command")
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_folder()))
    result = compile_all(options.capability, options.only)
    json.dump({"triton": triton.__version__, "capability": options.capability, **result}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
