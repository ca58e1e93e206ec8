"""What the chart promises before any cluster sees it."""

from __future__ import annotations

import base64
import hashlib
import json
import tomllib
from typing import Any

import pytest
import yaml

from cluster.chart_rendering import CHART, REPOSITORY, SYSTEM, Object, helm, named, of_kind, refusal, render

CRD = REPOSITORY / "crds" / "llmdeployments.yaml"


def test_helm_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART).stdout


def test_the_crd_in_the_chart_is_the_repositorys() -> None:
    copy = CHART / "files" / "llmdeployments.yaml"
    assert copy.read_bytes() == CRD.read_bytes(), "the copy is stale: run `make chart`"
    rendered = named(render(), "CustomResourceDefinition", "llmdeployments.topmast.dev")
    assert rendered["spec"] == yaml.safe_load(CRD.read_text())["spec"]
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_crd_can_be_left_to_somebody_else() -> None:
    assert of_kind(render('crd={"install": false}'), "CustomResourceDefinition") == []


def test_no_role_has_a_wildcard_or_reads_secrets_beyond_the_one_of_keys() -> None:
    for objects in (render(), render('namespaces=["a"]')):
        for role in of_kind(objects, "Role", "ClusterRole"):
            for rule in role["rules"]:
                words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
                assert "*" not in words, role["metadata"]["name"]
                if "secrets" in rule["resources"]:
                    assert role["kind"] == "Role"
                    assert rule["resourceNames"] == ["topmast-api-keys"]
                    assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_with_namespaces_nothing_is_granted_in_the_whole_cluster() -> None:
    objects = render('namespaces=["team-a", "team-b", "team-a"]')
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []
    bound = {item["metadata"]["namespace"] for item in of_kind(objects, "RoleBinding")}
    assert bound == {SYSTEM, "team-a", "team-b"}
    for deployment in of_kind(objects, "Deployment"):
        arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        assert [word for word in arguments if word.startswith("--namespace")] == [
            "--namespace=team-a",
            "--namespace=team-b",
        ]


def test_the_first_keys_hash_is_the_hash_of_the_first_key() -> None:
    objects = render()
    key = base64.b64decode(named(objects, "Secret", "topmast-first-key")["data"]["key"])
    assert len(key) == 43 and key.startswith(b"tm-") and key[3:].isalnum()
    entry = base64.b64decode(named(objects, "Secret", "topmast-api-keys")["data"]["first"]).decode()
    assert entry == f"sha256:{hashlib.sha256(key).hexdigest()}"


def test_with_a_secret_of_ones_own_no_key_is_made() -> None:
    objects = render('gateway.keys.existingSecret="our-keys"')
    secrets = {item["metadata"]["name"] for item in of_kind(objects, "Secret")}
    assert secrets == {"topmast-shared-token", "topmast-engine-keys", "topmast-metrics-token"}
    gateway = named(objects, "Deployment", "topmast-gateway")["spec"]["template"]["spec"]["containers"][0]
    assert "--keys-secret=our-keys" in gateway["args"]
    (rule,) = named(objects, "Role", "topmast-gateway")["rules"]
    assert rule["resourceNames"] == ["our-keys"]


def test_without_the_gateway_nothing_of_it_is_left() -> None:
    names = [item["metadata"]["name"] for item in render("gateway.enabled=false")]
    assert any("operator" in name for name in names)
    assert not [name for name in names if "gateway" in name or "key" in name]


def test_gateways_and_operators_share_a_token_and_nobody_else_reads_it() -> None:
    objects = render("operator.replicas=2")
    assert len(base64.b64decode(named(objects, "Secret", "topmast-shared-token")["data"]["token"])) == 40
    for component in ("operator", "gateway"):
        pod = named(objects, "Deployment", f"topmast-{component}")["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (volume,) = [item for item in pod["volumes"] if item["name"] == "shared-token"]
        assert volume["secret"]["secretName"] == "topmast-shared-token"
        assert container["volumeMounts"][0]["mountPath"] == "/etc/topmast/shared"
        assert "--shared-token-file=/etc/topmast/shared/token" in container["args"]
    assert "--operator-url=$(TOPMAST_OPERATOR_PORT)" in container["args"] and pod["enableServiceLinks"]
    assert named(objects, "Service", "topmast-operator")["spec"]["ports"][0]["port"] == 8080
    own = render('sharedToken.existingSecret="ours"')
    assert "topmast-shared-token" not in [item["metadata"]["name"] for item in of_kind(own, "Secret")]


def test_the_operator_finds_the_gateways_by_their_labels_and_may_list_them() -> None:
    def selector(objects: list[Object]) -> dict[str, str]:
        (container,) = named(objects, "Deployment", "topmast-operator")["spec"]["template"]["spec"]["containers"]
        (found,) = [word for word in container["args"] if word.startswith("--gateway-selector=")] or ["="]
        return dict(pair.split("=") for pair in found.removeprefix("--gateway-selector=").split(",") if pair != "=")

    def lists_pods(objects: list[Object]) -> bool:
        rules = named(objects, "Role", "topmast-operator")["rules"]
        return any("pods" in rule["resources"] and rule["verbs"] == ["list"] for rule in rules)

    objects, few = render(), render('namespaces=["a"]')
    for rendered in (objects, few):
        labels = named(rendered, "Deployment", "topmast-gateway")["spec"]["template"]["metadata"]["labels"]
        assert selector(rendered).items() <= labels.items() and len(selector(rendered)) == 2
        operator = named(rendered, "Deployment", "topmast-operator")["spec"]["template"]["metadata"]["labels"]
        assert not selector(rendered).items() <= operator.items()
    assert not lists_pods(objects) and lists_pods(few)  # cluster-wide its ClusterRole has it
    without = render("gateway.enabled=false", 'namespaces=["a"]')
    assert selector(without) == {} and not lists_pods(without)


def test_tls_and_cors_are_off_unless_named() -> None:
    def gateway(*values: str) -> tuple[list[str], dict[str, Any]]:
        spec = named(render(*values), "Deployment", "topmast-gateway")["spec"]["template"]["spec"]
        return [word for word in spec["containers"][0]["args"] if word.startswith(("--tls", "--cors"))], spec

    arguments, spec = gateway()
    volumes, mounts = spec["volumes"], spec["containers"][0]["volumeMounts"]
    assert arguments == [] and "tls" not in [item["name"] for item in (*volumes, *mounts)]
    arguments, spec = gateway(
        'gateway.tls.secretName="our-tls"', 'gateway.corsOrigins=["https://chat.example.org", "*"]'
    )
    assert arguments == [
        "--tls-cert=/etc/topmast/tls/tls.crt",
        "--tls-key=/etc/topmast/tls/tls.key",
        "--cors-origin=https://chat.example.org",
        "--cors-origin=*",
    ]
    assert {"name": "tls", "secret": {"secretName": "our-tls"}} in spec["volumes"]
    mount = {"name": "tls", "mountPath": "/etc/topmast/tls", "readOnly": True}
    assert mount in spec["containers"][0]["volumeMounts"]


def test_the_gateways_environment_is_ones_own() -> None:
    (gateway,) = [
        item
        for item in of_kind(render('gateway.env.OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318"'), "Deployment")
        if item["metadata"]["name"].endswith("-gateway")
    ]
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}]


def test_images_come_from_the_named_registry_with_the_charts_version() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    objects = render('images.registry="registry.example.org:5000/team"', 'images.server.tag="next"')
    operator = named(objects, "Deployment", "topmast-operator")["spec"]["template"]["spec"]["containers"][0]
    assert operator["image"] == f"registry.example.org:5000/team/topmast/operator:{version}"
    assert "--engine-image=registry.example.org:5000/team/topmast/server:next" in operator["args"]


def test_the_charts_version_is_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == chart["version"] == project["version"]


def test_a_disruption_budget_is_made_only_where_it_leaves_a_pod() -> None:
    budgets = [item["metadata"]["name"] for item in of_kind(render("gateway.replicas=1"), "PodDisruptionBudget")]
    assert budgets == []  # with one replica it could only forbid every drain
    both = of_kind(render("operator.replicas=2"), "PodDisruptionBudget")
    assert {item["metadata"]["name"] for item in both} == {"topmast-gateway", "topmast-operator"}


def test_gateways_find_each_other_whether_they_are_ready_or_not() -> None:
    objects = render()
    service = named(objects, "Service", "topmast-gateway-peers")["spec"]
    gateway = named(objects, "Deployment", "topmast-gateway")["spec"]
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"]
    assert service["selector"] == gateway["selector"]["matchLabels"]
    arguments = gateway["template"]["spec"]["containers"][0]["args"]
    assert f"--peers=topmast-gateway-peers.{SYSTEM}.svc:8081" in arguments
    assert not any("usage-log" in argument for argument in arguments)


def test_the_usage_log_goes_to_standard_output_or_to_a_claim() -> None:
    pod = named(render("gateway.usageLog.stdout=true"), "Deployment", "topmast-gateway")["spec"]["template"]["spec"]
    assert "--usage-log=-" in pod["containers"][0]["args"]
    assert "usage" not in str(pod["volumes"])
    pod = named(render('gateway.usageLog.claim="usage"'), "Deployment", "topmast-gateway")["spec"]["template"]["spec"]
    assert "--usage-log=/usage" in pod["containers"][0]["args"] and pod["securityContext"]["fsGroup"] == 65532
    assert {"name": "usage", "persistentVolumeClaim": {"claimName": "usage"}} in pod["volumes"]
    assert {"name": "usage", "mountPath": "/usage"} in pod["containers"][0]["volumeMounts"]


@pytest.mark.parametrize(
    "values",
    [
        (),
        (
            'commonLabels={"app.kubernetes.io/component": "x", "app.kubernetes.io/name": "x", "team": "ml"}',
            'operator.podLabels={"app.kubernetes.io/instance": "x"}',
            'gateway.podLabels={"app.kubernetes.io/name": "x"}',
        ),
        ('fullnameOverride="acme"', 'images.operator.tag="next"', "gateway.autoscaling.enabled=true"),
    ],
)
def test_no_value_changes_a_selector_or_hides_pods_from_it(values: tuple[str, ...]) -> None:
    """A Deployment's selector is immutable: with another one every upgrade would be refused."""
    objects = render(*values)
    for component in ("operator", "gateway"):
        labels = {
            "app.kubernetes.io/name": "topmast",
            "app.kubernetes.io/instance": "topmast",
            "app.kubernetes.io/component": component,
        }
        (deployment,) = [o for o in of_kind(objects, "Deployment") if o["metadata"]["name"].endswith(component)]
        assert deployment["spec"]["selector"] == {"matchLabels": labels}
        pods = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels.items() <= pods.items()
        for service in of_kind(objects, "Service"):
            if component in service["metadata"]["name"]:
                assert service["spec"]["selector"] == labels
        for budget in of_kind(objects, "PodDisruptionBudget"):
            if component in budget["metadata"]["name"]:
                assert budget["spec"]["selector"]["matchLabels"] == labels


def test_common_labels_are_on_every_object_and_pod() -> None:
    objects = render('commonLabels={"team": "ml"}', "podMonitors.enabled=true", "gateway.ingress.enabled=true")
    assert len(objects) > 25
    without = [(item["kind"], item["metadata"]["name"]) for item in objects if "team" not in item["metadata"]["labels"]]
    assert without == []
    for deployment in of_kind(objects, "Deployment"):
        assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "ml"


def test_the_operator_starts_again_when_the_defaults_of_models_pods_change() -> None:
    """It reads them when it starts."""

    def template(*values: str) -> Any:
        return named(render(*values), "Deployment", "topmast-operator")["spec"]["template"]

    assert "annotations" not in template()["metadata"]
    one, other = template('engine.podDefaults={"a": 1}'), template('engine.podDefaults={"a": 2}')
    assert one["metadata"]["annotations"] != other["metadata"]["annotations"] and one["spec"] == other["spec"]


def test_in_named_namespaces_users_get_roles_that_an_admin_can_bind() -> None:
    alice = {"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"}
    objects = render('namespaces=["team-a"]', f"rbac.userRoles.editors=[{json.dumps(alice)}]")
    roles = {item["metadata"]["name"]: item for item in of_kind(objects, "Role")}
    verbs = {
        right: {verb for rule in roles[f"topmast-system-topmast-{right}"]["rules"] for verb in rule["verbs"]}
        for right in ("view", "edit")
    }
    assert verbs["view"] == {"get", "list", "watch"}
    assert verbs["edit"] >= verbs["view"] | {"create", "patch", "update", "delete"}
    bound = {item["roleRef"]["name"]: item["subjects"] for item in of_kind(objects, "RoleBinding")}
    assert bound["topmast-system-topmast-edit"] == [alice] and "topmast-system-topmast-view" not in bound
    assert of_kind(objects, "ClusterRole") == []


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ('gateway.replicas="two"', "gateway"),
        ("gateway.replica=2", "replica"),
        ('images.pullPolicy="Sometimes"', "pullPolicy"),
        ('namespaces=["Team_A"]', "namespaces"),
        ('images.registry="https://registry.example.org"', "registry"),
        ('gateway.service.type="Ingress"', "type"),
        ('gateway.corsOrigins=["chat.example.org"]', "corsOrigins"),
        ('gateway.trustedProxies=["10.0.0.1"]', "trustedProxies"),
        ('gateway.cacheIsolation="team"', "cacheIsolation"),
        ('gateway.jwt.jwks="http://id.example.org/jwks"', "jwks"),
        ('gateway.jwt.jwks="https://id.example.org/jwks"', "gateway.jwt.audience"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(value: str, word: str) -> None:
    assert word in refusal(value)
