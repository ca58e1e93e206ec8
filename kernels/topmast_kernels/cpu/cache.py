"""Where compiled CPU kernels are kept between starts. Loads neither numba nor torch, so that asking costs nothing.

`NUMBA_CACHE_DIR` names the folder where it is set; else the user's cache folder, else the temporary one. An image may
bring compiled kernels along: numba wants to write where it reads, so they are copied to that folder at the first start.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path


@functools.cache
def cache_folder() -> Path | None:
    """A writable folder of these sources' compiled code; None when there is no such place."""
    for base in _candidates():
        folder = base / f"topmast-{_fingerprint()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            _sow(folder)
            return folder
    return None


def seed_folder() -> Path:
    """Where an image keeps compiled kernels: `python -m topmast_kernels.cpu.compile --seed` fills it at build time."""
    return Path(sys.prefix) / "share" / "topmast" / "kernels"


def _sow(folder: Path) -> None:
    """Copy what the image brought, if it was compiled from these sources for this kind of CPU."""
    seed = seed_folder() / folder.name
    if (folder / _marker()).exists() or not (seed / _marker()).exists():
        return
    shutil.copytree(seed, folder, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("complete-*"))
    (folder / _marker()).touch()  # last: a copy that was cut short counts for nothing


def is_complete() -> bool:
    """Whether every kernel has been compiled for this CPU and kept, so that loading takes a fraction of a second."""
    folder = cache_folder()
    return folder is not None and (folder / _marker()).exists()


def mark_complete() -> None:
    """Remember that every kernel is compiled for this CPU."""
    folder = cache_folder()
    if folder is not None:
        (folder / _marker()).touch()


def openmp_folder() -> Path | None:
    """A folder for LD_LIBRARY_PATH that makes numba and torch share torch's OpenMP runtime; None without one.

    numba's OpenMP layer asks for `libgomp.so.1.0.0`, which slim images lack: it then falls back to a thread pool whose
    parallel regions cost 78 microseconds instead of 2. torch ships the same library under a shorter name.
    """
    torch = importlib.util.find_spec("torch")
    folder = cache_folder()
    if torch is None or torch.origin is None or folder is None:
        return None
    library = Path(torch.origin).parent / "lib" / "libgomp.so.1"
    link = folder / "lib" / "libgomp.so.1.0.0"
    if not library.exists():
        return None
    try:
        if not link.exists() or not link.samefile(library):
            link.parent.mkdir(exist_ok=True)
            fresh = link.with_name(f"{link.name}.{os.getpid()}")
            fresh.symlink_to(library)
            fresh.replace(link)
    except OSError:
        return None
    return link.parent


def _candidates() -> list[Path]:
    """The named folder first; where it is read-only and made for another CPU, the next one will do."""
    places = []
    if "NUMBA_CACHE_DIR" in os.environ:
        places.append(Path(os.environ["NUMBA_CACHE_DIR"]))
    if "XDG_CACHE_HOME" in os.environ:
        places.append(Path(os.environ["XDG_CACHE_HOME"]) / "topmast")
    elif "HOME" in os.environ:
        places.append(Path(os.environ["HOME"]) / ".cache" / "topmast")
    return [*places, Path(tempfile.gettempdir()) / f"topmast-{os.getuid()}"]


@functools.cache
def _fingerprint() -> str:
    digest = hashlib.sha256(f"{version('numba')} {platform.python_version()}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _marker() -> str:
    """One marker per kind of CPU and place of the sources: numba finds nothing that it kept for another of either."""
    place = hashlib.sha256(str(Path(__file__).resolve().parent).encode()).hexdigest()[:8]
    return f"complete-{cpu_kind()}-{place}"


@functools.cache
def cpu_kind() -> str:
    """A short name for this CPU's model and features, and for what numba is told to compile for."""
    forced = f"{os.environ.get('NUMBA_CPU_NAME', '')} {os.environ.get('NUMBA_CPU_FEATURES', '')}"
    flags = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "flags", "Features", "CPU part")):
                flags += line
            elif not line:
                break
    except OSError:
        flags = platform.processor()
    return hashlib.sha256((forced + flags).encode()).hexdigest()[:12]
