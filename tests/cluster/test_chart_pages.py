"""What the chart says of itself is true: its README, its metadata, and what its values are called."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
import yaml

import values_table
from cluster.chart_rendering import CHART, REPOSITORY, named, of_kind, render

VALUES = (CHART / "values.yaml").read_text()
META: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def hub(name: str) -> Any:
    """An annotation for Artifact Hub, which holds YAML."""
    return yaml.safe_load(META["annotations"][f"artifacthub.io/{name}"])


def test_the_table_of_values_is_fresh() -> None:
    readme = (CHART / "README.md").read_text()
    assert values_table.with_table(readme, VALUES) == readme, "README.md is stale: run `make chart`"


def test_every_value_is_described() -> None:
    assert values_table.undescribed(VALUES) == []
    short = [row.name for row in values_table.rows(VALUES) if not row.description.endswith((".", ")"))]
    assert short == [], "a description is sentences"


def test_a_value_without_a_comment_is_noticed() -> None:
    text = "# Ours.\na: {b: 1}\nc:\n  # Theirs.\n  d: 2\n  e: 3\nf: 4\n"
    assert values_table.undescribed(text) == ["c.e", "f"]
    assert [(row.name, row.default) for row in values_table.rows(text)] == [("a", {"b": 1}), ("c.d", 2)]


def test_examples_and_groups_stay_out_of_the_table() -> None:
    text = "# All of it.\n#   a: {b: <1>}\na:\n  # One | two <3>.\n  b: {}\n"
    assert values_table.table(text).splitlines()[2:] == [
        "| `a` |  | All of it. |",
        "| `a.b` | `{}` | One \\| two \\<3>. |",
    ]


def test_a_readme_without_a_place_for_the_table_is_told_so() -> None:
    with pytest.raises(ValueError, match="has no lines"):
        values_table.with_table("# Readme\n", VALUES)


def test_values_and_schema_know_the_same_names() -> None:
    def names(schema: dict[str, Any], path: str = "") -> set[str]:
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        inner = schema.get("properties")
        if not inner:
            return {path}
        assert schema.get("additionalProperties") is False or path == ".global", f"{path} takes any name"
        return {name for key, value in inner.items() for name in names(value, f"{path}.{key}")}

    described = {f".{row.name}" for row in values_table.rows(VALUES) if not row.is_group}
    # Neither may have a default: a chart that this one is part of sets them.
    assert names(SCHEMA) - described == {".enabled", ".tags"} and described <= names(SCHEMA)


def test_the_icon_is_the_picture_beside_it() -> None:
    kind, _, data = META["icon"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == (CHART / "icon.svg").read_bytes()


def test_artifact_hub_is_told_the_truth() -> None:
    objects = render()
    (crd,) = of_kind(objects, "CustomResourceDefinition")
    (told,) = hub("crds")
    assert (told["kind"], told["name"]) == (crd["spec"]["names"]["kind"], crd["metadata"]["name"])
    assert told["version"] in [version["name"] for version in crd["spec"]["versions"]]
    assert hub("crdsExamples") == [yaml.safe_load((REPOSITORY / "examples" / "smollm2.yaml").read_text())]
    operator = named(objects, "Deployment", "topmast-operator")["spec"]["template"]["spec"]["containers"][0]
    used = {operator["image"], next(word for word in operator["args"] if "engine-image" in word).partition("=")[2]}
    assert {image["image"] for image in hub("images")} == used
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert all(change["kind"] in kinds and change["description"] for change in hub("changes"))
    assert all(re.match(r"https://", link["url"]) for link in hub("links"))
    assert META["annotations"]["artifacthub.io/license"] == META["annotations"]["licenses"] == "Apache-2.0"
