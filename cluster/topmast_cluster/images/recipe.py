"""What the images are, and the key that says whether one has to be built again.

A key is a digest of everything that goes into an image, so an unchanged tree builds nothing.
"""

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
SOURCES = (
    "operator/topmast_operator",
    "server/topmast_server",
    "gateway/topmast_gateway",
    "server/topmast_access",
    "kernels/topmast_kernels",
    "cli/topmast_cli",
)


@dataclass(frozen=True)
class Recipe:
    """One Containerfile in images/ and the extras of Topmast that its packages come from."""

    name: str
    extras: tuple[str, ...]
    demo_model: bool = False

    @property
    def containerfile(self) -> Path:
        return CHECKOUT / "images" / f"{self.name}.Containerfile"

    @property
    def repository(self) -> str:
        return f"topmast/{self.name}"


RECIPES = (Recipe("operator", ("operator", "gateway", "cli", "otel")), Recipe("server", ("server",), demo_model=True))


@cache
def pyproject() -> dict[str, object]:
    """The `project` table of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return table


def version() -> str:
    return str(pyproject()["version"])


def digest(parts: Iterable[str]) -> str:
    """Hex digest of `parts`; no two different lists give the same bytes."""
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


def application_key() -> str:
    """Digest of the application's sources: what pip would install from this checkout."""
    files = [CHECKOUT / name for name in ("pyproject.toml", "LICENSE")]
    return _files_key([*files, *(path for folder in SOURCES for path in _files_of(folder))])


def kernels_key() -> str:
    """Digest of the kernels' sources, which are compiled into a layer of their own."""
    return _files_key(_files_of("kernels/topmast_kernels"))


def _files_of(folder: str) -> list[Path]:
    return [path for path in (CHECKOUT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _files_key(files: Iterable[Path]) -> str:
    content = hashlib.sha256()
    for path in sorted(files):
        data = path.read_bytes()
        content.update(f"{path.relative_to(CHECKOUT)} {len(data)}\n".encode() + data)
    return content.hexdigest()
