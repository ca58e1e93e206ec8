"""The chart as Helm renders it. Decides nothing about pass or fail, and needs no cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from topmast_cluster.binaries import ensure_binaries
from topmast_cluster.progress import Progress

Object = dict[str, Any]
REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "topmast"
SYSTEM = "topmast-system"


def helm(
    *arguments: str | Path, env: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs the pinned Helm. A failure carries what Helm said."""
    program = ensure_binaries(Progress())["helm"]
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}
    )
    if check and done.returncode:
        raise AssertionError(f"helm {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done


def render(*values: str, files: Sequence[Path] = (), chart: Path = CHART, name: str = "topmast") -> list[Object]:
    """The chart's objects with `--set` values and values files, as of a release called topmast."""
    sets = [word for value in values for word in ("--set-json", value)]
    given = [word for file in files for word in ("--values", file)]
    text = helm("template", name, chart, "--namespace", SYSTEM, *given, *sets).stdout
    return [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]  # ten times as fast as without the C


def refusal(*values: str) -> str:
    """What Helm says about values that the schema does not allow."""
    sets = [word for value in values for word in ("--set-json", value)]
    done = helm("template", "topmast", CHART, *sets, check=False)
    assert done.returncode != 0, "Helm took values that it should refuse"
    return done.stderr


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found
