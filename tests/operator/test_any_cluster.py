"""Other people's clusters: every snippet of the page about them is one that the API server takes, and so is the pod."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from operatorlab.world import Process, World

from topmast_operator.run.pod_defaults import read_pod_defaults

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "any-cluster.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
MODELS = [yaml.safe_load(block) for block in BLOCKS if "kind: LLMDeployment" in block]
DEFAULTS = [block for block in BLOCKS if block.startswith("# engine pod defaults\n")]


def test_every_snippet_is_a_model_or_a_file_of_defaults() -> None:
    assert len(BLOCKS) == len(MODELS) + len(DEFAULTS) and len(MODELS) >= 7


@pytest.mark.parametrize("body", MODELS, ids=lambda body: str(body["metadata"]["name"]))
def test_a_snippet_is_taken_by_the_api_server(whole_world: World, body: dict[str, Any]) -> None:
    said = whole_world.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=body, check=False)
    assert "created" in said, said


@pytest.mark.parametrize("text", DEFAULTS)
def test_a_snippet_of_defaults_is_taken_by_the_operator(tmp_path: Path, text: str) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text(text)
    assert read_pod_defaults(path) != {}


# What OpenShift's SCC restricted-v2 refuses, for pods of one namespace: users and groups that it did not assign.
_RULES = {
    "names a user": "!has(object.spec.securityContext) || !has(object.spec.securityContext.runAsUser)",
    "names a group": "!has(object.spec.securityContext) || !has(object.spec.securityContext.fsGroup)",
    "may gain privileges": (
        "object.spec.containers.all(c, has(c.securityContext) && has(c.securityContext.allowPrivilegeEscalation)"
        " && !c.securityContext.allowPrivilegeEscalation && c.securityContext.capabilities.drop.exists(d, d == 'ALL'))"
    ),
}


def _policy(namespace: str) -> str:
    group = "admissionregistration.k8s.io/v1"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
    validations = [{"expression": rule, "message": f"scc: the pod {words}"} for words, rule in _RULES.items()]
    policy = {
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": validations},
    }
    binding = {
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {
            **{"policyName": namespace, "validationActions": ["Deny"]},
            "matchResources": {"namespaceSelector": selector},
        },
    }
    return yaml.safe_dump_all([policy, binding])


def test_an_openshift_like_cluster_takes_pods_once_it_may_choose_the_user(world: World, running: Process) -> None:
    world.kubectl("apply", "-f", "-", stdin=_policy(world.namespace))
    world.until("the policy is enforced", lambda: "scc:" in _dry_run_with_a_user(world))
    world.apply(world.model("named"))
    world.until("the refusal is told", lambda: "the pod names a user" in str(world.status("named")))
    world.apply(world.model("free", pod={"securityContext": {}}))
    world.until_ready("free", 1)
    world.kubectl("delete", "validatingadmissionpolicybinding", world.namespace)
    world.kubectl("delete", "validatingadmissionpolicy", world.namespace)


def _dry_run_with_a_user(world: World) -> str:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "namespace": world.namespace},
        "spec": {"securityContext": {"runAsUser": 1}, "containers": [{"name": "x", "image": "x"}]},
    }
    return world.kubectl("apply", "--dry-run=server", "-f", "-", stdin=pod, check=False)
