"""The CRD: what is refused, with which sentence, and what the API server fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from operatorlab.facts import DEFAULTS, model
from operatorlab.full_pod import FULL_POD
from operatorlab.world import World

from topmast_operator.api.pod import (
    MERGED_BY,
    RESERVED_ENVIRONMENT,
    RESERVED_LABELS,
    RESERVED_PATHS,
    RESERVED_VOLUMES,
    VOLUME_SOURCES,
)
from topmast_operator.render.children import deployment
from topmast_operator.render.template import render_template

CRD = Path(__file__).parents[2] / "crds" / "llmdeployments.yaml"
Spec = dict[str, Any]

TOKEN = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}


def _mount(path: str, **more: str) -> Spec:
    mount = {"name": "x", "mountPath": path, **more}
    return {"pod": {"volumes": [{"name": "x", "emptyDir": {}}], "volumeMounts": [mount]}}


def _node_affinity(operator: str, values: list[str]) -> Spec:
    term = {"matchExpressions": [{"key": "gpu", "operator": operator, "values": values}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return {"pod": {"affinity": {"nodeAffinity": required}}}


def _aliases(*names: str) -> Spec:
    return {"access": {"aliases": list(names)}}


def _fallbacks(*names: str) -> Spec:
    return {"access": {"fallbacks": list(names)}}


def _timeouts(**seconds: Any) -> Spec:
    return {"access": {"timeouts": seconds}}


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
    ("doors", {"engine": {"extraArgs": ["--access-file=/tmp/mine"]}}, "or who may call (--access-file)"),
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
    (
        "toleration-key",
        {"placement": {"tolerations": [{"key": "a b", "operator": "Exists"}]}},
        "no taint's key: copy it",
    ),
    (
        "toleration-value",
        {"placement": {"tolerations": [{"key": "a", "value": "a b"}]}},
        "no taint's value: use letters",
    ),
    ("node-key", {"placement": {"nodeSelector": {"a b": "c"}}}, "a key of spec.placement.nodeSelector is no label key"),
    ("node-value", {"placement": {"nodeSelector": {"a": "b c"}}}, "a value of spec.placement.nodeSelector is no label"),
    ("priority", {"placement": {"priorityClassName": "High"}}, "kubectl get priorityclasses lists them"),
    ("image-case", {"engine": {"image": "registry.example/Team/server:1"}}, "in lower case, such as registry.example/"),
    ("image-tag", {"engine": {"image": "server:"}}, "in lower case, such as registry.example/"),
    ("request", {"resources": {"cpu": 1, "requests": {"cpu": "1500m"}}}, "lower the request or raise the limit"),
    ("request-memory", {"resources": {"memory": "1Gi", "requests": {"memory": "2Gi"}}}, "lower the request or raise"),
    ("request-cpu", {"resources": {"requests": {"cpu": 0}}}, "spec.resources.requests.cpu must be a quantity above 0"),
    (
        "request-small",
        {"resources": {"requests": {"memory": 4}}},
        "spec.resources.requests.memory must be a quantity of",
    ),
    ("disk", {"resources": {"ephemeralStorage": 4}}, "ephemeralStorage must be a quantity of at least 64Mi"),
    ("device", {"resources": {"extended": {"hugepages": 1}}}, "takes resources with a domain of their own"),
    ("device-k8s", {"resources": {"extended": {"kubernetes.io/x": 1}}}, "takes resources with a domain of their own"),
    (
        "device-twice",
        {"resources": {"accelerator": {"count": 1}, "extended": {"nvidia.com/gpu": 1}}},
        "count it in spec.resources.accelerator alone",
    ),
    ("env-home", {"engine": {"env": [{"name": "HOME", "value": "/"}]}}, "HOME and XDG_CACHE_HOME are set by Topmast"),
    ("env-both", {"engine": {"env": [{**TOKEN, "value": "x"}]}}, "a variable has value or valueFrom"),
    ("env-from", {"engine": {"env": [{"name": "A", "valueFrom": {}}]}}, "valueFrom needs one source"),
    (
        "env-twice",
        {"engine": {"env": [TOKEN]}, "pod": {"env": [TOKEN]}},
        "spec.engine.env and in spec.pod.env: keep one",
    ),
    ("label-ours", {"pod": {"labels": {"topmast.dev/model": "x"}}}, "find the pods by them; use another key"),
    ("label-name", {"pod": {"labels": {"app.kubernetes.io/name": "x"}}}, "find the pods by them; use another key"),
    ("label", {"pod": {"labels": {"a b": "c"}}}, "spec.pod.labels has a key or value that is no label"),
    ("label-value", {"pod": {"labels": {"a": "b c"}}}, "spec.pod.labels has a key or value that is no label"),
    ("note-ours", {"pod": {"annotations": {"topmast.dev/draining": "x"}}}, "tells by them which pod leaves next"),
    ("note", {"pod": {"annotations": {"a/b/c": ""}}}, "spec.pod.annotations has a key that is none"),
    ("account", {"pod": {"serviceAccountName": "A"}}, "of spec.pod are names of objects"),
    ("runtime", {"pod": {"runtimeClassName": "nvidia_x"}}, "of spec.pod are names of objects"),
    ("profile", {"pod": {"securityContext": {"seccompProfile": {"type": "Localhost"}}}}, "belongs to type Localhost"),
    ("privileged", {"pod": {"containerSecurityContext": {"privileged": True}}}, 'unknown field "spec.pod.container'),
    (
        "capability",
        {"pod": {"containerSecurityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}},
        '"IPC_LOCK", "SYS_',
    ),
    ("host-network", {"pod": {"hostNetwork": True}}, 'unknown field "spec.pod.hostNetwork"'),
    (
        "host-path",
        {"pod": {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}},
        'unknown field "spec.pod.volumes[0]',
    ),
    (
        "volume-ours",
        {"pod": {"volumes": [{"name": "cache", "emptyDir": {}}]}},
        "are Topmast's own: choose another name",
    ),
    ("volume-none", {"pod": {"volumes": [{"name": "x"}]}}, "a volume needs one source: configMap"),
    ("volume-size", {"pod": {"volumes": [{"name": "x", "emptyDir": {"sizeLimit": 8}}]}}, "quantity of at least 1Mi"),
    ("shm", {"pod": {"shmSize": "8"}}, "a size in spec.pod must be a quantity of at least 1Mi, such as 8Gi"),
    ("mount", {"pod": {"volumeMounts": [{"name": "x", "mountPath": "/x"}]}}, "names a volume that is not in spec.pod"),
    ("mount-path", _mount("x"), "must be an absolute path written out in full"),
    ("mount-up", _mount("/a/../b"), "must be an absolute path written out in full"),
    ("mount-root", _mount("/"), "must be an absolute path written out in full"),
    ("mount-ours", _mount("/tmp"), "are mounted already: choose another mountPath"),
    ("mount-model", _mount("/models/pvc/x"), "are mounted already: choose another mountPath"),
    ("mount-sub", _mount("/x", subPath="a", subPathExpr="b"), "a volume mount has subPath or subPathExpr"),
    ("env-from-none", {"pod": {"envFrom": [{"prefix": "A_"}]}}, "has configMapRef or secretRef: give one of them"),
    ("claim", {"pod": {"resourceClaims": [{"name": "x"}]}}, "resourceClaimName or resourceClaimTemplateName: give one"),
    (
        "domains",
        {
            "pod": {
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2}
                ]
            }
        },
        "minDomains only works with whenUnsatisfiable DoNotSchedule",
    ),
    ("affinity-values", _node_affinity("In", []), "values and operator of a matchExpressions entry do not fit"),
    ("affinity-exists", _node_affinity("Exists", ["x"]), "values and operator of a matchExpressions entry do not fit"),
    ("affinity-number", _node_affinity("Gt", ["1", "2"]), "values and operator of a matchExpressions entry do not fit"),
    ("alias", {"pod": {"hostAliases": [{"ip": "10.0.0", "hostnames": ["a"]}]}}, "must be an IPv4 or IPv6 address"),
    ("dns", {"pod": {"dnsPolicy": "None"}}, "dnsPolicy None needs spec.pod.dnsConfig.nameservers"),
    ("replicas", {"replicas": -1}, "should be greater than or equal to 0"),
    ("bounds", {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "lower minReplicas or raise maxReplicas"),
    ("zero", {"autoscaling": {"minReplicas": 0, "maxReplicas": 2}}, "set spec.suspend: true to run no replica"),
    ("nap", {"sleep": {"idleSeconds": 1}}, "spec.sleep.idleSeconds"),
    ("typo", {"modle": {}}, 'unknown field "spec.modle"'),
    ("named-space", _aliases("gpt 4o"), "an alias in spec.access.aliases is no name of a model: use letters"),
    ("named-line", _aliases("gpt-4o\n"), "an alias in spec.access.aliases is no name of a model: use letters"),
    ("named-slash", _aliases("gpt-4o", "/models/gpt"), "an alias in spec.access.aliases is no name of a model"),
    ("named-end", _aliases("gpt-"), "with a letter or digit at both ends, such as gpt-4o or meta-llama/Llama"),
    ("named-umlaut", _aliases("größe"), "an alias in spec.access.aliases is no name of a model"),
    ("named-nothing", _aliases(""), "spec.access.aliases[0]"),
    ("named-long", _aliases("x" * 129), "may not be more than 128"),
    ("named-twice", _aliases("gpt-4o", "gpt-4o"), "Duplicate value"),
    ("named-often", _aliases(*(f"gpt-{number}" for number in range(17))), "must have at most 16 items"),
    ("named-full", _aliases("team/smollm2"), "looks like namespace/name, by which callers reach another model"),
    ("named-digits", _aliases("1/2"), "leave out the part before '/', or use a capital letter"),
    ("named-slashes", _aliases("meta-llama//Llama-3.1-8B"), "has '//', which proxies make one '/': write a single '/'"),
    (
        "own-name",
        _aliases("own-name"),
        "spec.access.aliases has the model's own name, by which callers reach it anyway",
    ),
    ("own-place", _fallbacks("b", "own-place"), "spec.access.fallbacks has the model itself, which cannot answer in"),
    ("place-twice", _fallbacks("b", "c", "b"), "spec.access.fallbacks names a model twice: keep the place where it"),
    ("place-many", _fallbacks("a", "b", "c", "d", "e"), "must have at most 4 items"),
    ("place-case", _fallbacks("Team/b"), "is no name of a model: write it as kubectl get llm -A shows it"),
    ("place-alias", _fallbacks("gpt-4.5"), "name or namespace/name (an alias does not do)"),
    ("place-path", _fallbacks("a/b/c"), "an entry of spec.access.fallbacks is no name of a model"),
    ("place-half", _fallbacks("team/"), "an entry of spec.access.fallbacks is no name of a model"),
    ("place-long", _fallbacks("x" * 38), "an entry of spec.access.fallbacks is no name of a model"),
    ("place-nothing", _fallbacks(""), "spec.access.fallbacks[0]"),
    ("queue", _timeouts(queueSeconds=0), "spec.access.timeouts.queueSeconds"),
    ("hold", _timeouts(holdSeconds=86401), "should be less than or equal to 86400"),
    ("progress", _timeouts(progressSeconds=-1), "should be greater than or equal to 1"),
    ("answer", _timeouts(answerSeconds="60s"), "spec.access.timeouts.answerSeconds"),
    ("answer-half", _timeouts(answerSeconds=0.5), "spec.access.timeouts.answerSeconds"),
    ("timeout-typo", _timeouts(total=60), 'unknown field "spec.access.timeouts.total"'),
    ("retries", {"access": {"retries": 11}}, "should be less than or equal to 10"),
    ("retries-less", {"access": {"retries": -1}}, "should be greater than or equal to 0"),
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


def test_every_field_of_a_pod_is_stored_as_it_was_written(world: World) -> None:
    """What the schema does not know is dropped in silence by clients that do not validate."""
    resources = {
        "cpu": 4,
        "memory": "8Gi",
        "requests": {"cpu": 2},
        "extended": {"rdma/hca": 1},
        "ephemeralStorage": "9Gi",
    }
    world.apply(world.model("full", pod=FULL_POD, resources=resources, suspend=True))
    found = world.get("llm", "full")
    assert found is not None and found["spec"]["pod"] == FULL_POD and found["spec"]["resources"] == resources


def test_a_pod_with_every_field_is_one_that_kubernetes_takes(whole_world: World) -> None:
    """Rendered and validated strictly: a field that the API server would refuse must be refused in the spec already."""
    of = model(pod=FULL_POD, resources={"cpu": 4, "memory": "8Gi", "extended": {"rdma/hca": 1}})
    template = render_template(of, "r", DEFAULTS)
    child = {**deployment(of, "r", template, 1, proven=False, failed=None)}
    child["metadata"] = {**child["metadata"], "namespace": "default"}
    del child["metadata"]["ownerReferences"]
    told = whole_world.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=child
    )
    assert "serverside-applied" in told


def test_the_full_pod_of_the_tests_has_every_field_of_the_schema() -> None:
    assert set(_schema_of_pod()["properties"]) == set(MERGED_BY)
    assert _unused(_schema_of_pod(), [FULL_POD]) == []


def test_what_is_reserved_is_written_once_in_the_schema_and_once_in_the_code() -> None:
    text = CRD.read_text()
    for names in (RESERVED_VOLUMES, RESERVED_PATHS - {"/"}, RESERVED_ENVIRONMENT, RESERVED_LABELS):
        assert all(f"'{name}'" in text for name in names), names
    assert set(_schema_of_pod()["properties"]["volumes"]["items"]["properties"]) == {"name", *VOLUME_SOURCES}


def _schema_of_pod() -> Any:
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["pod"]


def _unused(schema: Any, values: list[Any], at: str = "") -> list[str]:
    """Paths of the schema that none of the values has."""
    missing = []
    for name, of in schema.get("properties", {}).items():
        below = [value[name] for value in values if name in value]
        missing += _unused(of, below, f"{at}.{name}") if below else [f"{at}.{name}"]
    if "items" in schema:
        missing += _unused(schema["items"], [item for value in values for item in value], f"{at}[]")
    return missing


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
