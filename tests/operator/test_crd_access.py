"""spec.access in the CRD: what callers may be offered, kept as it was written, and described to who asks kubectl."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from operatorlab.world import World

ROOT = Path(__file__).parents[2]
CRD, PAGE = ROOT / "crds" / "llmdeployments.yaml", (ROOT / "docs" / "operator.md").read_text()
LONGEST = "n" * 63 + "/" + "m" * 37

FULL: dict[str, Any] = {
    "aliases": ["gpt-4o", "meta-llama/Llama-3.1-8B", "team/chat:latest", "a", "v1.0_x", "a/b/c", "x" * 128],
    "fallbacks": ["smaller", "team-b/smollm2", "9-teams/x", LONGEST],
    "timeouts": {"queueSeconds": 1, "holdSeconds": 86400, "progressSeconds": 30, "answerSeconds": 600},
    "retries": 0,
}
ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("full", FULL),
    ("nothing", {}),
    ("empty", {"aliases": [], "fallbacks": [], "timeouts": {}}),
    ("most", {"aliases": [f"Alias-{number}" for number in range(16)], "retries": 10}),
    ("own-name-in-part", {"aliases": ["own-name-in-part-2", "Own-name-in-part"], "fallbacks": ["own-name-in-par"]}),
    ("same-name-elsewhere", {"fallbacks": ["team/same-name-elsewhere"]}),
]


@pytest.mark.parametrize(("name", "access"), ACCEPTED, ids=[name for name, _ in ACCEPTED])
def test_it_is_stored_as_it_was_written(world: World, name: str, access: dict[str, Any]) -> None:
    """No default is put into it, and the order of the fallbacks, which means something, stays."""
    world.apply(world.model(name, access=access, suspend=True))
    found = world.get("llm", name)
    assert found is not None and found["spec"]["access"] == access


def test_a_model_that_leaves_it_out_is_stored_without_it(world: World) -> None:
    world.apply(world.model("plain", suspend=True))
    found = world.get("llm", "plain")
    assert found is not None and "access" not in found["spec"]


def test_two_who_apply_each_keep_their_aliases_and_the_order_of_fallbacks_is_one_owners(world: World) -> None:
    """A set is merged member by member in server-side apply; an order cannot be."""

    def apply(manager: str, **access: Any) -> str:
        body = world.model("shared", access=access, suspend=True)
        return world.kubectl("apply", "--server-side", "--field-manager", manager, "-f", "-", stdin=body, check=False)

    apply("one", aliases=["gpt-4o"], fallbacks=["b", "a"])
    assert "serverside-applied" in apply("two", aliases=["gpt-4"])
    found = world.get("llm", "shared")
    assert found is not None and set(found["spec"]["access"]["aliases"]) == {"gpt-4o", "gpt-4"}
    assert "conflict" in apply("two", aliases=["gpt-4"], fallbacks=["a"])
    assert "serverside-applied" in apply("one", aliases=["gpt-4o"], fallbacks=["a", "b"])
    found = world.get("llm", "shared")
    assert found is not None and found["spec"]["access"]["fallbacks"] == ["a", "b"]


def test_the_snippet_of_the_page_is_taken(whole_world: World) -> None:
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "access:" in block]
    access = yaml.safe_load(block)["spec"]["access"]
    assert access.keys() == _schema()["properties"].keys()
    body = whole_world.model("snippet", access=access)
    assert "created" in whole_world.kubectl("apply", "--dry-run=server", "-f", "-", stdin=body)


def test_every_field_is_described_to_who_asks_kubectl(whole_world: World) -> None:
    fields = dict(_fields(_schema(), "llm.spec.access"))
    assert len(fields) == 9 and all(fields.values()), fields
    for path, description in fields.items():
        said = whole_world.kubectl("explain", path)
        assert " ".join(description.split()) in " ".join(said.split()), path


def _schema() -> dict[str, Any]:
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["access"]
    return found


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    yield path, schema.get("description", "")
    for name, of in schema.get("properties", {}).items():
        yield from _fields(of, f"{path}.{name}")
