"""Topmast's own wheel, built from the checkout; the last and smallest layer of every image."""

import shutil
import sys
import tempfile
from pathlib import Path

from topmast_cluster.images.command import run_logged
from topmast_cluster.images.recipe import CHECKOUT
from topmast_cluster.paths import cache_dir
from topmast_cluster.progress import Progress


def ensure_application(key: str, progress: Progress) -> Path:
    """A directory with one wheel; `key` is `application_key()`."""
    directory = cache_dir() / "images" / "app" / key[:16]
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (
        progress.phase("application wheel") as detail,
        tempfile.TemporaryDirectory(dir=directory.parent, prefix=".new-") as scratch,
    ):
        new = Path(scratch) / "app"
        run_logged(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", new],
            directory.parent.parent / "logs" / "application.log",
            detail,
            cwd=CHECKOUT,
            remedy="the checkout does not build as a Python package",
        )
        for old in directory.parent.iterdir():
            if not old.name.startswith(".new-"):
                shutil.rmtree(old)
        new.rename(directory)
    return directory
