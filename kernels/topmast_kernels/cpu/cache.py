"""Where compiled CPU kernels are kept between starts. Loads neither numba nor torch, so that asking costs nothing.

`NUMBA_CACHE_DIR` names the folder where it is set; else the user's cache folder, else the temporary one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path


@functools.cache
def cache_folder() -> Path | None:
    """A writable folder of these sources' compiled code; None when there is no such place."""
    for base in _candidates():
        folder = base / f"topmast-{_fingerprint()}"
        if (folder / _marker()).exists():  # complete, perhaps made when the image was built: need not be writable
            return folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


def is_complete() -> bool:
    """Whether every kernel has been compiled for this CPU and kept, so that loading takes a fraction of a second."""
    folder = cache_folder()
    return folder is not None and (folder / _marker()).exists()


def mark_complete() -> None:
    """Remember that every kernel is compiled for this CPU."""
    folder = cache_folder()
    if folder is not None:
        (folder / _marker()).touch()


def _candidates() -> list[Path]:
    named = os.environ.get("NUMBA_CACHE_DIR")
    user = os.environ.get("XDG_CACHE_HOME") or (Path(os.environ["HOME"]) / ".cache" if "HOME" in os.environ else None)
    temporary = Path(tempfile.gettempdir()) / f"topmast-{os.getuid()}"
    return [Path(named)] if named else [*([Path(user) / "topmast"] if user else []), temporary]


@functools.cache
def _fingerprint() -> str:
    digest = hashlib.sha256(f"{version('numba')} {platform.python_version()}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _marker() -> str:
    """One marker per kind of CPU: a cache from another kind is of no use here."""
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
    return "complete-" + hashlib.sha256((forced + flags).encode()).hexdigest()[:12]
