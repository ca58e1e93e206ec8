"""`spec.pod` and `spec.resources`: what is asked lands in pod and revision once, and takes nothing of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operatorlab.facts import DEFAULTS, model

from topmast_operator.api.pod import MERGED_BY, merge, normal
from topmast_operator.plan.revision import intent, revision_of
from topmast_operator.render.template import EngineDefaults, render_template

Spec = dict[str, Any]

SECRET_ENV = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub-token", "key": "token"}}}
VOLUME = {"name": "certs", "configMap": {"name": "ca-bundle"}}
MOUNT = {"name": "certs", "mountPath": "/etc/certs"}
CLAIM = {"name": "gpu", "resourceClaimTemplateName": "one-gpu"}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200"]}]}]
        }
    }
}
SPREAD = {"maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}

# Every field with a value, where the pod template must have it, and a part of it that nothing else has.
FIELDS: dict[str, tuple[Any, str, str]] = {
    "labels": ({"kueue.x-k8s.io/queue-name": "team-a"}, "metadata.labels", "team-a"),
    "annotations": ({"karpenter.sh/do-not-disrupt": "true"}, "metadata.annotations", "do-not-disrupt"),
    "imagePullSecrets": ([{"name": "registry-key"}], "spec.imagePullSecrets", "registry-key"),
    "serviceAccountName": ("workload-id", "spec.serviceAccountName", "workload-id"),
    "runtimeClassName": ("nvidia", "spec.runtimeClassName", "nvidia"),
    "schedulerName": ("volcano", "spec.schedulerName", "volcano"),
    "affinity": (AFFINITY, "spec.affinity", "h200"),
    "topologySpreadConstraints": ([SPREAD], "spec.topologySpreadConstraints", "topology.kubernetes.io/zone"),
    "securityContext": ({"runAsUser": 1234}, "spec.securityContext", "1234"),
    "containerSecurityContext": ({"capabilities": {"add": ["IPC_LOCK"]}}, "container.securityContext", "IPC_LOCK"),
    "volumes": ([VOLUME], "spec.volumes", "ca-bundle"),
    "volumeMounts": ([MOUNT], "container.volumeMounts", "/etc/certs"),
    "env": ([SECRET_ENV], "container.env", "hub-token"),
    "envFrom": ([{"configMapRef": {"name": "proxy"}}], "container.envFrom", "proxy"),
    "resourceClaims": ([CLAIM], "spec.resourceClaims", "one-gpu"),
    "shmSize": ("6Gi", "spec.volumes", "6Gi"),
    "probes": ({"startup": {"failureThreshold": 617}}, "container.startupProbe", "617"),
    "hostAliases": ([{"ip": "10.0.0.7", "hostnames": ["registry.internal"]}], "spec.hostAliases", "10.0.0.7"),
    "dnsPolicy": ("Default", "spec.dnsPolicy", '"Default"'),
    "dnsConfig": ({"options": [{"name": "ndots", "value": "1"}]}, "spec.dnsConfig", "ndots"),
}
EVERYTHING = {name: value for name, (value, _, _) in FIELDS.items()}


def rendered(defaults: EngineDefaults = DEFAULTS, **spec: Any) -> Spec:
    of = model(**spec)
    return render_template(of, revision_of(of), defaults)


def container(template: Spec) -> Spec:
    (only,) = template["spec"]["containers"]
    return dict(only)


def part(template: Spec, where: str) -> Any:
    """What is at a dotted path; `container` is the engine's."""
    found: Any = {**template, "container": container(template)}
    for name in where.split("."):
        found = found.get(name, {})
    return found


def test_the_table_of_this_test_is_the_table_of_fields() -> None:
    assert set(FIELDS) == set(MERGED_BY)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_lands_in_the_pod_and_in_the_revision_once(name: str) -> None:
    value, where, mark = FIELDS[name]
    of = model(pod={name: value})
    template = render_template(of, "r", DEFAULTS)
    assert mark not in json.dumps(rendered())
    assert json.dumps(template).count(mark) == 1
    assert mark in json.dumps(part(template, where))
    assert json.dumps(intent(of)).count(mark) == 1
    assert revision_of(of) != revision_of(model())


def test_shared_memory_is_a_volume_in_memory_of_that_size() -> None:
    template = rendered(pod={"shmSize": "6144Mi"})
    assert template["spec"]["volumes"][-1] == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "6Gi"}}
    assert container(template)["volumeMounts"][-1] == {"name": "shm", "mountPath": "/dev/shm"}


@given(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1))
def test_any_choice_of_fields_is_in_pod_and_intent_and_takes_nothing_of_ours(names: set[str]) -> None:
    of = model(pod={name: EVERYTHING[name] for name in names})
    template, plain = render_template(of, "r", DEFAULTS), rendered()
    for name, (_, _, mark) in FIELDS.items():
        assert json.dumps(template).count(mark) == json.dumps(intent(of)).count(mark) == (name in names)
    for key, value in plain["metadata"]["labels"].items():
        assert template["metadata"]["labels"][key] == value or key == "topmast.dev/revision"
    for name in ("args", "ports", "image", "livenessProbe", "readinessProbe"):
        assert container(template)[name] == container(plain)[name]
    for name in ("volumeMounts", "env"):
        assert all(container(template)[name].count(ours) == 1 for ours in container(plain)[name])
    assert all(template["spec"]["volumes"].count(ours) == 1 for ours in plain["spec"]["volumes"])
    assert template["spec"]["automountServiceAccountToken"] is False


@given(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1), st.sets(st.sampled_from(sorted(FIELDS))))
def test_the_operators_defaults_give_the_pod_that_the_spec_would_and_hash_nothing(
    names: set[str], own: set[str]
) -> None:
    """Whatever is left to the defaults comes out as if the model had asked for it; the revision does not know."""
    given_to_all = EngineDefaults(DEFAULTS.image, normal({name: EVERYTHING[name] for name in names}))
    of = model(pod={name: EVERYTHING[name] for name in own})
    everything = model(pod={name: EVERYTHING[name] for name in names | own})
    assert render_template(of, "r", given_to_all) == render_template(everything, "r", DEFAULTS)


def test_maps_merge_by_key_named_lists_by_name_and_the_rest_is_replaced() -> None:
    default = normal(
        {
            "labels": {"a": "1", "b": "1"},
            "probes": {"startup": {"periodSeconds": 2, "failureThreshold": 9}, "liveness": {"timeoutSeconds": 9}},
            "imagePullSecrets": [{"name": "x"}, {"name": "y"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "securityContext": {"runAsUser": 1, "fsGroup": 2},
            "envFrom": [{"secretRef": {"name": "s"}}],
            "runtimeClassName": "nvidia",
        }
    )
    own = normal(
        {
            "labels": {"b": "2"},
            "probes": {"startup": {"failureThreshold": 3}},
            "imagePullSecrets": [{"name": "z"}, {"name": "y"}],
            "volumes": [{"name": "v", "secret": {"secretName": "s"}}],
            "securityContext": {"runAsUser": 7},
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "runtimeClassName": "",
        }
    )
    merged = merge(default, own)
    assert merged["labels"] == {"a": "1", "b": "2"}
    assert merged["probes"] == {
        "startup": {"periodSeconds": 2, "failureThreshold": 3},
        "liveness": {"timeoutSeconds": 9},
    }
    assert [item["name"] for item in merged["imagePullSecrets"]] == ["x", "y", "z"]
    assert merged["volumes"] == [{"name": "v", "secret": {"secretName": "s"}}]
    assert merged["securityContext"] == {"runAsUser": 7}
    assert merged["envFrom"] == [{"configMapRef": {"name": "c"}}]
    with_runtime_class = EngineDefaults("i", default)
    assert rendered(with_runtime_class)["spec"]["runtimeClassName"] == "nvidia"
    assert "runtimeClassName" not in rendered(with_runtime_class, pod={"runtimeClassName": ""})["spec"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"pod": {}}, {}),
        ({"pod": {"labels": {}, "volumes": [], "env": [], "probes": {}}}, {}),
        (
            {"pod": {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}},
            {"pod": {"imagePullSecrets": [{"name": "b"}, {"name": "a"}]}},
        ),
        ({"pod": {"shmSize": "1024Mi"}}, {"pod": {"shmSize": "1Gi"}}),
        ({"pod": {"shmSize": 1073741824}}, {"pod": {"shmSize": "1Gi"}}),
        (
            {"pod": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1024Mi"}}]}},
            {"pod": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]}},
        ),
        (
            {"pod": {"volumes": [{"name": "v", "secret": {"secretName": "s", "optional": False}}]}},
            {"pod": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}},
        ),
        ({"pod": {"env": [{"name": "A", "value": "1"}]}}, {"engine": {"env": [{"name": "A", "value": "1"}]}}),
        ({"pod": {"env": [{"name": "A", "value": ""}]}}, {"engine": {"env": [{"name": "A"}]}}),
        ({"resources": {"cpu": 4, "requests": {"cpu": "4000m"}}}, {"resources": {"cpu": 4}}),
        ({"resources": {"memory": "4Gi", "requests": {"memory": "4096Mi"}}}, {"resources": {"memory": "4Gi"}}),
        ({"resources": {"ephemeralStorage": "1024Mi"}}, {"resources": {"ephemeralStorage": "1Gi"}}),
        ({"resources": {"requests": {}, "extended": {}}}, {}),
    ],
)
def test_the_same_meaning_is_the_same_revision(one: Spec, other: Spec) -> None:
    assert revision_of(model(**one)) == revision_of(model(**other))
    assert rendered(**one) == rendered(**other)


@pytest.mark.parametrize(
    "changed",
    [
        {"pod": {"securityContext": {}}},
        {"pod": {"containerSecurityContext": {}}},
        {"pod": {"topologySpreadConstraints": []}},
        {"pod": {"env": [SECRET_ENV]}},
        {"resources": {"requests": {"cpu": 1}}},
        {"resources": {"cpu": 4, "requests": {"cpu": 2}}},
        {"resources": {"extended": {"rdma/hca": 1}}},
        {"resources": {"ephemeralStorage": "1Gi"}},
    ],
)
def test_another_meaning_is_another_revision(changed: Spec) -> None:
    assert revision_of(model(**changed)) != revision_of(model())
    assert rendered(**changed) != rendered()


def test_revisions_with_a_pod_are_stable_across_versions_of_the_operator() -> None:
    """A change of this hash would restart every model that has these fields, on the next upgrade."""
    full = model(
        pod=EVERYTHING,
        resources={"cpu": 4, "memory": "8Gi", "requests": {"cpu": 2}, "extended": {"rdma/hca": 1}},
    )
    assert revision_of(full) == "f6a1a629"


def test_an_emptied_security_context_leaves_users_to_the_cluster() -> None:
    """OpenShift assigns a user per namespace and refuses a pod that names another."""
    template = rendered(pod={"securityContext": {}, "containerSecurityContext": {}})
    assert "securityContext" not in template["spec"] and "securityContext" not in container(template)
    plain = rendered()
    assert plain["spec"]["securityContext"]["runAsUser"] == 65532
    assert container(plain)["securityContext"]["readOnlyRootFilesystem"] is True


def test_labels_by_which_pods_are_found_cannot_be_taken_over() -> None:
    """The API server refuses them in a spec; here nothing stands between a file of defaults and the pod."""
    defaults = EngineDefaults("i", {"labels": {"topmast.dev/model": "other", "team": "a"}})
    assert rendered(defaults)["metadata"]["labels"]["topmast.dev/model"] == "m"
    assert rendered(defaults)["metadata"]["labels"]["team"] == "a"


def test_a_spread_without_a_selector_is_over_the_models_own_pods() -> None:
    (spread,) = rendered(pod={"topologySpreadConstraints": [SPREAD]})["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"]["topmast.dev/model"] == "m"
    chosen = {**SPREAD, "labelSelector": {"matchLabels": {"team": "a"}}}
    (spread,) = rendered(pod={"topologySpreadConstraints": [chosen]})["spec"]["topologySpreadConstraints"]
    assert spread == chosen


def test_variables_of_the_model_win_over_the_operators() -> None:
    defaults = EngineDefaults(
        "i", normal({"env": [{"name": "HTTP_PROXY", "value": "a"}, {"name": "ZONE", "value": "z"}]})
    )
    variables = {
        item["name"]: item
        for item in container(rendered(defaults, engine={"env": [{"name": "HTTP_PROXY", "value": "b"}]}))["env"]
    }
    assert variables["HTTP_PROXY"]["value"] == "b" and variables["ZONE"]["value"] == "z"
    assert variables["HOME"]["value"] == "/tmp"


def test_requests_may_be_less_than_limits() -> None:
    asked = {
        "cpu": 4,
        "memory": "8Gi",
        "requests": {"cpu": "1500m"},
        "extended": {"rdma/hca": 2},
        "ephemeralStorage": "10Gi",
    }
    assert container(rendered(resources=asked, pod={"resourceClaims": [CLAIM]}))["resources"] == {
        "requests": {"cpu": "1500m", "memory": "8Gi", "rdma/hca": "2", "ephemeral-storage": "10Gi"},
        "limits": {"cpu": "4", "memory": "8Gi", "rdma/hca": "2", "ephemeral-storage": "10Gi"},
        "claims": [{"name": "gpu"}],
    }  # fmt: skip
    only = container(rendered(resources={"requests": {"cpu": 1, "memory": "2Gi"}}))["resources"]
    assert only == {"requests": {"cpu": "1", "memory": "2Gi"}}


def test_a_pod_without_resources_is_not_the_first_to_be_evicted() -> None:
    """Modest requests and no limit, while nobody knows how large the weights are."""
    assert container(rendered())["resources"] == {"requests": {"cpu": "250m", "memory": "1Gi"}}
    assert container(rendered(resources={"cpu": 2}))["resources"] == {
        "requests": {"cpu": "2", "memory": "1Gi"},
        "limits": {"cpu": "2"},
    }


def test_what_an_engine_measured_of_the_weights_sizes_the_next_revision_and_changes_none() -> None:
    source = model().source
    known = model(status={"model": {"source": source, "weightsBytes": 7 * 2**30 + 1}})
    assert container(render_template(known, "r", DEFAULTS))["resources"]["requests"] == {
        "cpu": "1750m",
        "memory": "8448Mi",
    }
    assert revision_of(known) == revision_of(model())
    other = model(status={"model": {"source": "image:///another.gguf", "weightsBytes": 7 * 2**30}})
    assert container(render_template(other, "r", DEFAULTS))["resources"]["requests"]["memory"] == "1Gi"
    with_cache = model(engine={"kvCacheBytes": "2Gi"})
    assert container(render_template(with_cache, "r", DEFAULTS))["resources"]["requests"]["memory"] == "3Gi"
    on_gpu = model(
        status={"model": {"source": source, "weightsBytes": 70 * 2**30}}, resources={"accelerator": {"count": 1}}
    )
    assert container(render_template(on_gpu, "r", DEFAULTS))["resources"]["requests"]["memory"] == "1Gi"
    huge = model(status={"model": {"source": source, "weightsBytes": 700 * 2**30}})
    assert container(render_template(huge, "r", DEFAULTS))["resources"]["requests"]["cpu"] == "4"


def test_local_volumes_have_an_end_and_keep_no_node_alive() -> None:
    template = rendered()
    assert all(volume["emptyDir"]["sizeLimit"] for volume in template["spec"]["volumes"])
    safe = template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"]
    assert set(safe.split(",")) >= {volume["name"] for volume in template["spec"]["volumes"]}
