"""Install, upgrade and uninstall with real Helm on a real API server. No node is needed: no pod has to run for this."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.chart_rendering import CHART, REPOSITORY, SYSTEM, Object, helm, of_kind, render
from cluster.waiting import until
from engine_keys import new_pem
from topmast_cluster.cluster import Cluster
from topmast_cluster.errors import ClusterError
from topmast_cluster.quickstart.model import apply_model, await_model
from topmast_cluster.quickstart.target import Target

CRD = "llmdeployments.topmast.dev"
MODEL = yaml.safe_load((REPOSITORY / "examples" / "smollm2.yaml").read_text())


class Release:
    """One release in a cluster of its own, which has an API server and no nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def upgrade(self, chart: Path = CHART, *values: str) -> str:
        """The notes that Helm prints."""
        sets = [word for value in values for word in ("--set-json", value)]
        words = ("upgrade", "--install", "topmast", chart, "--namespace", SYSTEM, "--create-namespace", *sets)
        return helm(*words, env=self.cluster.environment()).stdout

    def uninstall(self) -> None:
        helm("uninstall", "topmast", "--namespace", SYSTEM, "--ignore-not-found", env=self.cluster.environment())

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.cluster.kubectl(*words, stdin=stdin, check=check)

    def secret(self, name: str) -> dict[str, str]:
        done = self.kubectl("get", "secret", name, "-n", SYSTEM, "-o", "json", check=False)
        data: dict[str, str] = json.loads(done.stdout).get("data", {}) if done.returncode == 0 else {}
        return data

    def crd(self) -> Object:
        found: Object = json.loads(self.kubectl("get", "crd", CRD, "-o", "json").stdout)
        return found

    def can(self, account: str, *words: str, namespace: str = SYSTEM) -> bool:
        user = f"system:serviceaccount:{SYSTEM}:topmast-{account}"
        return self.kubectl("auth", "can-i", *words, f"--as={user}", "-n", namespace, check=False).returncode == 0

    def may(self, account: str, *words: str, namespace: str = SYSTEM) -> bool:
        """The API server learns of a new role, and of one that is gone, a moment late: a right is there by then."""
        return until(lambda: self.can(account, *words, namespace=namespace))

    def may_not(self, account: str, *words: str, namespace: str = SYSTEM) -> bool:
        return until(lambda: not self.can(account, *words, namespace=namespace))

    def until_models_are_known(self) -> None:
        """To the API server and, by what it says of itself, to kubectl."""
        wait = ("wait", "--for=condition=Established", f"crd/{CRD}")
        assert until(lambda: self.kubectl(*wait, check=False).returncode == 0)  # it fails while there are no conditions
        assert until(lambda: self.kubectl("get", "llmdeployments", "-A", check=False).returncode == 0)


@pytest.fixture
def release(control_plane: Cluster) -> Iterator[Release]:
    release = Release(control_plane)
    yield release
    release.uninstall()
    release.kubectl("delete", "crd", CRD, "--ignore-not-found")


def test_upgrade_keeps_keys_and_never_brings_back_what_was_removed(release: Release) -> None:
    notes = release.upgrade()
    assert "get secret topmast-first-key" in notes
    hashes, first = release.secret("topmast-api-keys"), release.secret("topmast-first-key")
    assert set(hashes) == {"first"} and set(first) == {"key"}

    alice = '{"stringData": {"alice": "sha256:00"}}'
    release.kubectl("patch", "secret", "topmast-api-keys", "-n", SYSTEM, "--type=merge", "-p", alice)
    release.upgrade()
    assert release.secret("topmast-first-key") == first
    assert release.secret("topmast-api-keys") == {**hashes, "alice": "c2hhMjU2OjAw"}

    release.kubectl("delete", "secret", "topmast-first-key", "-n", SYSTEM)
    assert "get secret topmast-first-key" not in release.upgrade()
    assert release.secret("topmast-first-key") == {}
    assert release.secret("topmast-api-keys")["first"] == hashes["first"]

    revoke = '{"data": {"first": null}}'
    release.kubectl("patch", "secret", "topmast-api-keys", "-n", SYSTEM, "--type=merge", "-p", revoke)
    release.upgrade()
    assert set(release.secret("topmast-api-keys")) == {"alice"}


def test_upgrade_keeps_the_shared_token(release: Release) -> None:
    release.upgrade()
    token = release.secret("topmast-shared-token")
    assert set(token) == {"token"}
    release.upgrade(CHART, "gateway.replicas=1")
    assert release.secret("topmast-shared-token") == token


def test_upgrade_keeps_the_keys_of_engines_and_what_somebody_does_to_replace_them(release: Release) -> None:
    release.upgrade()
    keys, scrape = release.secret("topmast-engine-keys"), release.secret("topmast-metrics-token")
    assert set(keys) == {"signing.pem"} and set(scrape) == {"token"}

    def patch(**data: str | None) -> None:
        words = ("-n", SYSTEM, "--type=merge", "-p", json.dumps({"data": data}))
        release.kubectl("patch", "secret", "topmast-engine-keys", *words)

    new = base64.b64encode(new_pem()).decode()
    patch(**{"next.pem": new})
    release.upgrade()
    assert release.secret("topmast-engine-keys") == {**keys, "next.pem": new}
    patch(**{"signing.pem": new, "next.pem": keys["signing.pem"]})
    release.upgrade()
    patch(**{"next.pem": None})
    release.upgrade()
    assert release.secret("topmast-engine-keys") == {"signing.pem": new}
    assert release.secret("topmast-metrics-token") == scrape


def test_keys_stay_in_use_when_doors_are_opened_again(release: Release) -> None:
    """Engines of earlier revisions go on asking for tokens: without keys nobody could call them any more."""
    release.upgrade()
    keys = release.secret("topmast-engine-keys")

    def arguments(component: str) -> list[str]:
        words = ("deployment", f"topmast-{component}", "-n", SYSTEM, "-o", "json")
        pod = json.loads(release.kubectl("get", *words).stdout)["spec"]["template"]["spec"]
        return list(pod["containers"][0]["args"])

    assert "--closed-engines" in arguments("operator")
    release.upgrade(CHART, "engineAccess.enabled=false")
    assert release.secret("topmast-engine-keys") == keys
    assert "--engine-keys=/etc/topmast/engine-keys" in arguments("operator")
    assert "--closed-engines" not in arguments("operator")
    assert "--signing-key=/etc/topmast/engine-keys/signing.pem" in arguments("gateway")


def test_upgrade_brings_the_crd_up_to_date_and_uninstall_keeps_it_with_its_models(
    release: Release, tmp_path: Path
) -> None:
    older = tmp_path / "topmast"
    shutil.copytree(CHART, older)
    file = older / "files" / "llmdeployments.yaml"
    file.write_text(file.read_text().replace("shortNames: [llm]", "shortNames: [oldllm]"))
    release.upgrade(older)
    assert release.crd()["spec"]["names"]["shortNames"] == ["oldllm"]
    release.until_models_are_known()
    release.kubectl("apply", "-f", "-", stdin=json.dumps(MODEL))

    release.upgrade()
    assert release.crd()["spec"]["names"]["shortNames"] == ["llm"]

    uid = release.crd()["metadata"]["uid"]
    release.uninstall()
    assert release.crd()["metadata"]["uid"] == uid
    release.kubectl("get", "llmdeployment", MODEL["metadata"]["name"])
    assert release.secret("topmast-api-keys") == {}

    release.upgrade()  # takes the kept CRD over again
    assert release.crd()["metadata"]["uid"] == uid


def test_the_gateway_reads_one_secret_and_the_operator_none(release: Release) -> None:
    release.upgrade()
    assert release.may("gateway", "list", "secrets/topmast-api-keys")
    assert release.may_not("gateway", "get", "secrets/topmast-first-key")
    assert release.may_not("gateway", "list", "secrets")
    assert release.may_not("gateway", "update", "secrets/topmast-api-keys")
    assert release.may_not("gateway", "delete", "pods", namespace="default")
    assert release.may("operator", "create", "deployments.apps", namespace="default")
    for verb in ("get", "list", "create"):
        assert release.may_not("operator", verb, "secrets", namespace="default")


def test_with_namespaces_the_rights_end_there(release: Release) -> None:
    for name in ("team-a", "team-b"):
        release.kubectl("create", "namespace", name)
    try:
        release.upgrade(CHART, 'namespaces=["team-a"]')
        assert release.may("operator", "create", "deployments.apps", namespace="team-a")
        assert release.may("gateway", "watch", "pods", namespace="team-a")
        assert release.may_not("operator", "create", "deployments.apps", namespace="team-b")
        assert release.may_not("gateway", "watch", "pods", namespace="team-b")
    finally:
        release.kubectl("delete", "namespace", "team-a", "team-b")


def test_with_namespaces_those_who_are_named_may_look_or_edit_there(release: Release) -> None:
    release.kubectl("create", "namespace", "team-a")
    group = "rbac.authorization.k8s.io"
    people = {
        right: json.dumps([{"kind": "User", "name": name, "apiGroup": group}])
        for right, name in (("viewers", "vera"), ("editors", "edith"))
    }
    named = [f"rbac.userRoles.{right}={subjects}" for right, subjects in people.items()]

    def can(user: str, verb: str, namespace: str = "team-a") -> bool:
        words = ("auth", "can-i", verb, "llmdeployments.topmast.dev", f"--as={user}", "-n", namespace)
        return release.kubectl(*words, check=False).returncode == 0

    try:
        release.upgrade(CHART, 'namespaces=["team-a"]', *named)
        assert until(lambda: can("edith", "create") and can("edith", "list") and can("vera", "list"))
        assert not can("vera", "create") and not can("edith", "list", "default") and not can("strange", "list")
    finally:
        release.kubectl("delete", "namespace", "team-a")


def test_users_with_edit_rights_may_run_models(release: Release) -> None:
    release.upgrade()
    release.kubectl("create", "rolebinding", "ann", "--clusterrole=edit", "--user=ann", "-n", "default")
    try:
        ask = ("auth", "can-i", "create", "llmdeployments.topmast.dev", "--as=ann", "-n", "default")
        # A controller adds the rules to the role `edit`.
        assert until(lambda: release.kubectl(*ask, check=False).returncode == 0)
    finally:
        release.kubectl("delete", "rolebinding", "ann", "-n", "default")


@pytest.mark.parametrize(
    "values",
    [
        (),
        ('namespaces=["default"]', "operator.replicas=2", 'gateway.service.type="NodePort"'),
        (
            'images.pullSecrets=["pull"]',
            'gateway.nodeSelector={"a": "b"}',
            'operator.tolerations=[{"operator": "Exists"}]',
            'gateway.podAnnotations={"x/y": "z"}',
            'operator.extraArgs=["--resync-s=60"]',
            'operator.priorityClassName="system-cluster-critical"',
            'gateway.affinity={"nodeAffinity": {}}',
        ),
    ],
)
def test_the_api_server_takes_every_object_strictly(release: Release, values: tuple[str, ...]) -> None:
    release.kubectl("create", "namespace", SYSTEM, check=False)
    objects = [item for item in render(*values) if item["kind"] != "Secret"]
    text = yaml.safe_dump_all(objects)
    release.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


def test_pods_pass_the_restricted_policy(release: Release) -> None:
    """As pods of a namespace that enforces it, through the real admission."""
    release.upgrade()
    # Labelled as it is made: the admission knows a label that came later a moment late.
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    strict = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}}
    release.kubectl("apply", "-f", "-", stdin=json.dumps(strict))
    for account in ("operator", "gateway"):
        release.kubectl("create", "serviceaccount", f"topmast-{account}", "-n", "strict", check=False)
    for deployment in of_kind(render(), "Deployment"):
        template = deployment["spec"]["template"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": "probe", "namespace": "strict"},
            "spec": template["spec"],
        }
        release.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    bad = {"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": True}}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad", "namespace": "strict"}, "spec": bad}
    refused = release.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod), check=False)
    assert "restricted" in refused.stderr


def report(release: Release, *, observed: int, restarts: int = 0, **conditions: str) -> None:
    """Writes the model's status, as an operator would: the cluster runs none."""
    now = "2026-01-01T00:00:00Z"
    listed = [
        {"type": kind, "status": state, "reason": "Test", "message": f"{kind} says so.", "lastTransitionTime": now}
        for kind, state in conditions.items()
    ]
    status = {"observedGeneration": observed, "conditions": listed, "pods": [{"name": "pod", "restarts": restarts}]}
    words = ("patch", "llmdeployment", MODEL["metadata"]["name"], "--subresource=status", "--type=merge")
    release.kubectl(*words, "-p", json.dumps({"status": status}))


def test_make_up_stops_waiting_when_only_a_human_can_help(release: Release) -> None:
    release.upgrade()
    release.until_models_are_known()
    target, name = Target.embedded(release.cluster), MODEL["metadata"]["name"]
    apply_model(target, REPOSITORY / "examples" / "smollm2.yaml")

    said: list[str] = []
    with pytest.raises(ClusterError, match="no status yet"):
        await_model(target, name, said.append, timeout_s=0.5)
    assert "waiting for the operator" in said[0]

    report(release, observed=1, Ready="False", Stalled="True")
    with pytest.raises(ClusterError, match="Stalled says so"):
        await_model(target, name, said.append, timeout_s=20)

    report(release, observed=1, restarts=3, Ready="False", Stalled="False")
    with pytest.raises(ClusterError, match="3 restarts: Ready says so"):
        await_model(target, name, said.append, timeout_s=20)

    report(release, observed=0, Ready="True", Stalled="False")  # of an older generation
    with pytest.raises(ClusterError, match="not Ready after"):
        await_model(target, name, said.append, timeout_s=0.5)

    report(release, observed=1, Ready="True", Stalled="False")
    await_model(target, name, said.append, timeout_s=20)
