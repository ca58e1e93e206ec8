"""The CRD: what is refused, with which sentence, and what the API server fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from operatorlab.world import World

CRD = Path(__file__).parents[2] / "crds" / "llmdeployments.yaml"
Spec = dict[str, Any]

REFUSED: list[tuple[str, Spec, str]] = [
    ("scheme", {"model": {"source": "hf://org/repo"}}, "must start with image:// (a path in the engine image"),
    ("relative", {"model": {"source": "image://models/m.gguf"}}, "image:///models/x.gguf, with three slashes"),
    ("no-path", {"model": {"source": "pvc://weights"}}, "needs a claim and a path: pvc://claim/path"),
    ("traversal", {"model": {"source": "pvc://weights/../etc"}}, "must not contain '.' or '..' parts"),
    ("space", {"model": {"source": "image:///a b.gguf"}}, "must not contain spaces"),
    ("image", {"engine": {"image": "a b"}}, "one image reference without spaces"),
    ("dtype", {"engine": {"dtype": "float8"}}, 'supported values: "auto", "float32", "bfloat16"'),
    ("kv-small", {"engine": {"kvCacheBytes": 1024}}, "kvCacheBytes must be a quantity of at least 1Mi"),
    ("kv-text", {"engine": {"kvCacheBytes": "much"}}, "kvCacheBytes must be a quantity of at least 1Mi"),
    ("host", {"engine": {"extraArgs": ["--host", "::"]}}, "must not set addresses, ports, --served-model-name"),
    ("port", {"engine": {"extraArgs": ["--port=1"]}}, "must not set addresses, ports, --served-model-name"),
    ("field", {"engine": {"extraArgs": ["--max-num-seqs=4"]}}, "use the field instead of an extra argument"),
    ("env", {"engine": {"env": [{"name": "A B"}]}}, "spec.engine.env[0].name"),
    ("no-gpu", {"resources": {"accelerator": {"count": 0}}}, "leave spec.resources.accelerator out to run on CPUs"),
    ("gpu-name", {"resources": {"accelerator": {"count": 1, "resource": "gpu"}}}, "such as nvidia.com/gpu"),
    ("cpu", {"resources": {"cpu": 0}}, "spec.resources.cpu must be a quantity above 0"),
    ("cpu-text", {"resources": {"cpu": "two"}}, "spec.resources.cpu must be a quantity above 0"),
    ("memory", {"resources": {"memory": "4"}}, "a unit is easily forgotten: 4 is four bytes"),
    (
        "kv-beyond-memory",
        {"engine": {"kvCacheBytes": "4Gi"}, "resources": {"memory": "2Gi"}},
        "kvCacheBytes does not fit into spec.resources.memory",
    ),
    ("exists", {"placement": {"tolerations": [{"operator": "Exists", "value": "x"}]}}, "Exists takes no value"),
    ("keyless", {"placement": {"tolerations": [{"value": "x"}]}}, "without a key tolerates everything"),
    (
        "seconds",
        {"placement": {"tolerations": [{"operator": "Exists", "tolerationSeconds": 5}]}},
        "tolerationSeconds only works with effect NoExecute",
    ),
    ("replicas", {"replicas": -1}, "should be greater than or equal to 0"),
    ("bounds", {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "lower minReplicas or raise maxReplicas"),
    ("zero", {"autoscaling": {"minReplicas": 0, "maxReplicas": 2}}, "set spec.suspend: true to run no replica"),
    ("nap", {"sleep": {"idleSeconds": 1}}, "spec.sleep.idleSeconds"),
    ("typo", {"modle": {}}, 'unknown field "spec.modle"'),
]

NAMES = [("x" * 38, "use at most 37 characters"), ("3b-instruct", "start with a letter"), ("qwen2.5", "no dots")]


@pytest.mark.parametrize(("name", "spec", "sentence"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_wrong_manifest_is_refused_with_a_remedy(whole_world: World, name: str, spec: Spec, sentence: str) -> None:
    said = whole_world.kubectl(
        "apply", "--dry-run=server", "-f", "-", stdin=whole_world.model(name, **spec), check=False
    )
    assert sentence in said, said
    assert "created" not in said


@pytest.mark.parametrize(("name", "sentence"), NAMES)
def test_a_name_that_fits_no_child_is_refused(whole_world: World, name: str, sentence: str) -> None:
    said = whole_world.kubectl("apply", "--dry-run=server", "-f", "-", stdin=whole_world.model(name), check=False)
    assert sentence in said, said


@pytest.mark.parametrize("name", ["autoscaling", "sleeping", "smollm2"])
def test_the_examples_are_accepted(whole_world: World, name: str) -> None:
    text = (CRD.parents[1] / "examples" / f"{name}.yaml").read_text()
    assert "created" in whole_world.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)


def test_every_rule_of_the_crd_has_a_test() -> None:
    told = [sentence for *_, sentence in (*REFUSED, *NAMES)]
    rules = [rule["message"] for rule in _rules(yaml.safe_load(CRD.read_text()))]
    assert len(rules) >= 20
    assert [message for message in rules if not any(sentence in message for sentence in told)] == []


def _rules(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        own = node.get("x-kubernetes-validations", [])
        return [*own, *(rule for value in node.values() for rule in _rules(value))]
    return [rule for value in node for rule in _rules(value)] if isinstance(node, list) else []


def test_defaults_are_the_api_servers(world: World) -> None:
    world.apply(world.model("plain", autoscaling={"maxReplicas": 2}, sleep={}, resources={"accelerator": {"count": 1}}))
    found = world.get("llm", "plain")
    assert found is not None
    spec = found["spec"]
    assert (spec["replicas"], spec["suspend"]) == (1, False)
    assert spec["engine"] == {"dtype": "auto"}
    assert spec["resources"]["accelerator"] == {"count": 1, "resource": "nvidia.com/gpu"}
    assert spec["autoscaling"] == {
        "minReplicas": 1, "maxReplicas": 2, "scaleDownHoldSeconds": 300, "targetUtilization": 0.65,
    }  # fmt: skip
    assert spec["sleep"] == {"idleSeconds": 600}
    assert found["status"]["observedGeneration"] == -1, "so that kstatus tools wait for the operator"
    assert "plain" in world.kubectl("get", "all")
    assert "PHASE" in world.kubectl("get", "llm") and "REVISION" in world.kubectl("get", "llm")
    assert "spec.autoscaling" not in world.kubectl("explain", "llm.spec.autoscaling", check=False)[:5]


def test_quantities_may_be_numbers_or_texts(world: World) -> None:
    resources = {"cpu": 2, "memory": "4Gi"}
    world.apply(world.model("mixed", engine={"kvCacheBytes": 1073741824}, resources=resources))
    found = world.get("llm", "mixed")
    assert found is not None and found["spec"]["resources"] == resources
