"""The chart as a part of another one: switched by condition or tags, with that chart's globals and its own values."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from cluster.chart_rendering import CHART, Object, named, of_kind, render

PLATFORM = {
    "apiVersion": "v2",
    "name": "platform",
    "version": "1.0.0",
    "dependencies": [
        {"name": "topmast", "version": ">=0.1.0", "condition": "topmast.enabled", "tags": ["llm"]},
        {"name": "topmast", "alias": "second", "version": ">=0.1.0", "condition": "second.enabled"},
    ],
}
VALUES = {"second": {"enabled": False, "fullnameOverride": "second", "crd": {"install": False}}}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("charts") / "platform"
    shutil.copytree(CHART, parent / "charts" / "topmast")
    (parent / "Chart.yaml").write_text(yaml.safe_dump(PLATFORM))
    (parent / "values.yaml").write_text(yaml.safe_dump(VALUES))
    return parent


def names(objects: list[Object]) -> list[str]:
    return [item["metadata"]["name"] for item in of_kind(objects, "Deployment")]


@pytest.mark.parametrize(
    ("values", "is_there"),
    [
        ((), True),
        (("topmast.enabled=true",), True),
        (("topmast.enabled=false",), False),
        (("tags.llm=false",), False),
        (("tags.llm=true", "topmast.enabled=false"), False),
        (("tags.llm=false", "topmast.enabled=true"), True),
        (('topmast.tags={"llm": true}',), True),
    ],
)
def test_condition_and_tags_switch_it(platform: Path, values: tuple[str, ...], is_there: bool) -> None:
    objects = render(*values, chart=platform, name="prod")
    assert names(objects) == (["prod-topmast-gateway", "prod-topmast-operator"] if is_there else [])


def test_globals_reach_it_and_its_own_values_win(platform: Path) -> None:
    globals_ = 'global={"imageRegistry": "mirror.example", "imagePullSecrets": ["pull"], "of": {"others": [1]}}'
    pod = named(render(globals_, chart=platform), "Deployment", "topmast-gateway")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"].startswith("mirror.example/topmast/operator:")
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    own = render(globals_, 'topmast.images.registry="own.example"', chart=platform)
    pod = named(own, "Deployment", "topmast-gateway")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"].startswith("own.example/topmast/operator:")


@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_security_contexts_can_be_emptied_from_above(platform: Path, component: str) -> None:
    def pod(*values: str) -> Object:
        found: Object = named(render(*values, chart=platform), "Deployment", f"topmast-{component}")
        spec: Object = found["spec"]["template"]["spec"]
        return spec

    spec = pod(f"topmast.{component}.podSecurityContext=null", f"topmast.{component}.containerSecurityContext=null")
    assert "securityContext" not in spec and "securityContext" not in spec["containers"][0]
    spec = pod(f"topmast.{component}.podSecurityContext.runAsUser=null")
    assert "runAsUser" not in spec["securityContext"] and spec["securityContext"]["runAsNonRoot"]


def test_two_of_them_in_one_chart_share_no_name(platform: Path) -> None:
    objects = render("second.enabled=true", chart=platform)
    found = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
    assert len(found) == len(set(found)) and len(names(objects)) == 4
