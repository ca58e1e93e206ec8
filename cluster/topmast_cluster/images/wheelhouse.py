"""Wheels for one image, downloaded outside of it, so that the image's build needs no network.

Kept by content key in the cache; a wheelhouse is complete or absent, never half.
"""

import platform
import shutil
import sys
import tempfile
from pathlib import Path

from topmast_cluster.images.command import run_logged
from topmast_cluster.images.pins import IMAGE_PYTHON, public_pins
from topmast_cluster.images.recipe import CHECKOUT, Recipe, digest
from topmast_cluster.paths import cache_dir
from topmast_cluster.progress import Progress

# Installs the wheels inside the image from its own wheel file, so the image itself contains no pip.
PIP = "pip==26.3"
_NEWEST_GLIBC_MINOR = 36  # Debian 12; wheels for any older glibc fit too


def wheelhouse_key(recipe: Recipe, versions: dict[str, str]) -> str:
    return digest(["wheels", recipe.name, platform.machine(), PIP, *(f"{n}=={v}" for n, v in versions.items())])


def ensure_wheelhouse(recipe: Recipe, versions: dict[str, str], progress: Progress) -> Path:
    """A directory with every wheel of the image, pip's own, and NAME.txt which lists what to install."""
    key = wheelhouse_key(recipe, versions)
    house = cache_dir() / "images" / "wheels" / f"{recipe.name}-{key[:16]}"
    if house.is_dir():
        return house
    house.parent.mkdir(parents=True, exist_ok=True)
    with (
        progress.phase(f"wheels for {recipe.name}") as detail,
        tempfile.TemporaryDirectory(dir=house.parent, prefix=".new-") as scratch,
    ):
        new = Path(scratch) / "wheels"
        new.mkdir()
        listing = new / f"{recipe.name}.txt"
        listing.write_text("".join(f"{line}\n" for line in public_pins(versions)))
        run_logged(
            [
                *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--progress-bar=off"),
                *("--no-deps", "--only-binary=:all:", "--dest", str(new), *_target(), *_links()),
                *("--requirement", str(listing), PIP),
            ],
            house.parent.parent / "logs" / f"wheels-{recipe.name}.log",
            detail,
            remedy="see that pip can reach a package index",
        )
        for old in house.parent.glob(f"{recipe.name}-*"):
            shutil.rmtree(old)
        new.rename(house)
    return house


def _target() -> list[str]:
    """The image's Python and C library, which need not be those of this machine."""
    machine = platform.machine()
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(_NEWEST_GLIBC_MINOR, 16, -1)]
    platforms += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}"]
    abis = (f"cp{IMAGE_PYTHON.replace('.', '')}", "abi3", "none")
    words = ["--python-version", IMAGE_PYTHON, "--implementation", "cp"]
    for abi in abis:
        words += ["--abi", abi]
    for name in platforms:
        words += ["--platform", name]
    return words


def _links() -> list[str]:
    """../shared/wheels may hold a CPU build of torch; pip itself reads PIP_FIND_LINKS."""
    beside = CHECKOUT.parent / "shared" / "wheels"
    return ["--find-links", str(beside)] if beside.is_dir() else []
