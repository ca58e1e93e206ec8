"""The base image: a small Debian with Python, made by mmdebstrap where no registry can be reached.

`TOPMAST_BASE_IMAGE` names an image to start from instead, as the Containerfiles' default does.
"""

import os
import platform
from pathlib import Path

from topmast_cluster.images.command import run_logged
from topmast_cluster.images.recipe import digest
from topmast_cluster.paths import cache_dir
from topmast_cluster.progress import Progress

SUITE = "bookworm"
PACKAGES = "python3,ca-certificates,libstdc++6"  # the last for tokenizers, torch and numba
# Documents of packages are a tenth of the size and nobody reads them in a container.
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def chosen_base_image() -> str | None:
    return os.environ.get("TOPMAST_BASE_IMAGE") or None


def base_key() -> str:
    return chosen_base_image() or digest(["base", SUITE, PACKAGES, platform.machine(), *_LEFT_OUT])[:16]


def ensure_base_tar(progress: Progress) -> Path:
    """A root file system as a tar file."""
    images = cache_dir() / "images"
    tar = images / f"base-{base_key()}.tar"
    if tar.is_file():
        return tar
    images.mkdir(parents=True, exist_ok=True)
    new = tar.with_suffix(".new.tar")
    with progress.phase("base image") as detail:
        excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
        run_logged(
            ["mmdebstrap", "--variant=essential", f"--include={PACKAGES}", *excludes, SUITE, new],
            images / "logs" / "base.log",
            detail,
            remedy="see that Debian's package archive can be reached, or name a base in TOPMAST_BASE_IMAGE",
        )
        new.rename(tar)
    return tar
