"""Every value of the chart does what values.yaml says of it, and what comes of it is taken by a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import values_table
from cluster.chart_rendering import CHART, SYSTEM, Object, refusal, render
from cluster.dry_run import DryRun, dry_run
from cluster.foreign_crds import foreign_crds
from cluster.waiting import until
from topmast_cluster.cluster import Cluster

COMPONENTS = ("operator", "gateway")
POD = "spec template spec"
NAMESPACES = (SYSTEM, "team-a")


@dataclass(frozen=True)
class Case:
    """A line of chart_cases.yaml, which says what its parts mean."""

    value: str
    to: Any
    where: str
    path: tuple[str, ...]
    wanted: Any
    has: bool
    also: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False

    @property
    def values(self) -> dict[str, Any]:
        return {**self.also, self.value: self.to}

    def check(self, objects: list[Object]) -> None:
        kind, name = self.where.split("/")
        found: Any = next((o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name), None)
        for part in self.path:
            if found is not None:
                found = (
                    found.get(part) if isinstance(found, dict) else found[int(part)] if int(part) < len(found) else None
                )
        right = found is not None and self.wanted in found if self.has else found == self.wanted
        assert right, f"{self.value}: {self.where} {' '.join(self.path)} is {found}"


def _read(line: Mapping[str, Any], component: str) -> Case:
    def named(value: Any) -> Any:
        return value.replace("*", component, 1) if isinstance(value, str) else value

    path = line.get("at", "").split()
    shortcut = {"pod": POD.split(), "main": [*POD.split(), "containers", "0"]}.get(path[0] if path else "")
    return Case(
        named(line["value"]),
        line["to"],
        named(line["in"]),
        tuple([*shortcut, *path[1:]] if shortcut else path),
        line["has"] if "has" in line else line["is"],
        "has" in line,
        {named(value): to for value, to in line.get("also", {}).items()},
        line.get("alone", False),
    )


CASES = [
    _read(line, component)
    for line in yaml.safe_load((Path(__file__).parent / "chart_cases.yaml").read_text())
    for component in (COMPONENTS if "*" in line["value"] else ("",))
]


def rendered(values: Mapping[str, Any]) -> list[Object]:
    return render(*(f"{value}={json.dumps(to)}" for value, to in values.items()))


@pytest.fixture(scope="module")
def defaults() -> list[Object]:
    return [item for item in render() if item["kind"] != "Secret"]


@pytest.fixture(scope="module")
def server(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DryRun]:
    """An API server that knows every kind that the chart has, and its namespaces."""
    for file in foreign_crds():
        control_plane.kubectl("apply", "--server-side", "-f", str(file))
    for namespace in NAMESPACES:
        control_plane.kubectl("create", "namespace", namespace, check=False)
    for kind in ("httproutes", "podmonitors"):
        assert until(lambda kind=kind: control_plane.kubectl("get", kind, "-A", check=False).returncode == 0)  # type: ignore[misc]
    with dry_run(control_plane.kubeconfig, tmp_path_factory.mktemp("dry-run")) as server:
        yield server


@pytest.mark.parametrize("case", CASES, ids=[f"{case.value}-{number}" for number, case in enumerate(CASES)])
def test_a_value_does_what_it_says_and_gives_valid_objects(case: Case, defaults: list[Object], server: DryRun) -> None:
    objects = rendered(case.values)
    case.check(objects)
    refused = [server.refusal(item) for item in objects if item not in defaults]
    assert not any(refused), refused


def test_all_values_at_once_do_what_they_say_and_give_valid_objects(server: DryRun, control_plane: Cluster) -> None:
    cases = [case for case in CASES if not case.alone]
    values: dict[str, Any] = {}
    for case in cases:
        values |= case.also
    for case in cases:  # after what others needed, which says less
        values[case.value] = case.to
    objects = rendered(values)
    for case in cases:
        case.check(objects)
    text = yaml.safe_dump_all(objects)
    control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


def test_every_value_has_a_case() -> None:
    described = {row.name for row in values_table.rows((CHART / "values.yaml").read_text()) if not row.is_group}
    assert described - {case.value for case in CASES} == set()
    assert {case.value for case in CASES} - described == set()


@pytest.mark.parametrize("file", ["values-openshift.yaml", "values-k3s.yaml"])
def test_the_shipped_values_files_give_valid_objects(file: str, defaults: list[Object], server: DryRun) -> None:
    objects = render(files=[CHART / file])
    changed = [item for item in objects if item not in defaults and item["kind"] != "Secret"]
    assert changed
    assert not any(refused := [server.refusal(item) for item in changed]), refused


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("operator.podLabel={}", "podLabel"),
        ("gateway.ingress.host=[]", "host"),
        ('images.operator.digest="abc"', "digest"),
        ('commonLabels={"team": "a b"}', "commonLabels"),
        ("gateway.podDisruptionBudget.minAvailable=0", "minAvailable"),
        ('gateway.service.ipFamilies=["IPv5"]', "ipFamilies"),
        ('logFormat="xml"', "logFormat"),
        ('nameOverride="Topmast"', "nameOverride"),
        ("gateway.httpRoute.enabled=true", "parentRefs"),
        ("enabled=false", "condition: topmast.enabled"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_name(value: str, word: str) -> None:
    assert word in refusal(value)
