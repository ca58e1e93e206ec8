"""The exact third-party packages of an image: the closure of Topmast's extras in the environment that runs this.

That environment was installed from constraints.txt, so nothing has to be resolved a second time,
and a change of a test tool's version does not rebuild the layer with torch.
"""

import tomllib
from collections import deque
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from topmast_cluster.errors import ClusterError
from topmast_cluster.images.recipe import CHECKOUT

IMAGE_PYTHON = "3.11"


def pins(extras: tuple[str, ...]) -> dict[str, str]:
    """Canonical package name -> installed version (a local version such as +cpu included)."""
    found: dict[str, str] = {}
    asked: set[tuple[str, frozenset[str]]] = set()
    todo = deque(requirement for extra in extras for requirement in _extra(extra))
    while todo:
        requirement = todo.popleft()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) in asked:
            continue
        asked.add((name, wanted))
        installed = _installed(name)
        found[name] = installed.version
        todo.extend(child for child in map(Requirement, installed.requires or ()) if _applies(child.marker, wanted))
    return dict(sorted(found.items()))


def public_pins(versions: dict[str, str]) -> list[str]:
    """Requirement lines without local versions."""
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _extra(extra: str) -> list[Requirement]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"][extra]]]


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise ClusterError(f"the package {name} belongs into an image and is not in .venv: run `make venv`") from None


def _applies(marker: Marker | None, extras: frozenset[str]) -> bool:
    if marker is None:
        return True
    image = {"python_version": IMAGE_PYTHON, "python_full_version": f"{IMAGE_PYTHON}.2"}
    return any(marker.evaluate({**image, "extra": extra}) for extra in (*extras, ""))
