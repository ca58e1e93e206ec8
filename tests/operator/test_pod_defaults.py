"""`--engine-pod-defaults`: what is read, and that every mistake is one sentence before anything starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from operatorlab.full_pod import FULL_POD

from topmast_operator.api.pod import MERGED_BY, normal
from topmast_operator.run.pod_defaults import _TYPES, PodDefaultsError, read_pod_defaults


def read(tmp_path: Path, given: Any) -> dict[str, Any]:
    path = tmp_path / "defaults.yaml"
    path.write_text(given if isinstance(given, str) else yaml.safe_dump(given))
    return read_pod_defaults(path)


def test_the_types_are_of_all_fields() -> None:
    assert set(_TYPES) == set(MERGED_BY)


def test_whatever_a_spec_may_have_the_defaults_may_have(tmp_path: Path) -> None:
    assert read(tmp_path, FULL_POD) == read(tmp_path, json.dumps(FULL_POD)) == normal(FULL_POD)


def test_an_empty_file_is_no_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "") == read(tmp_path, "# nothing yet\n") == read(tmp_path, "{}") == {}


MOUNT = {"volumes": [{"name": "v", "emptyDir": {}}]}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("[1]", "it must be an object with fields such as"),
        ("a: {", "is neither YAML nor JSON"),
        ({"runtimeClass": "nvidia"}, "runtimeClass is not known: did you mean runtimeClassName?"),
        ({"hostNetwork": True}, "hostNetwork is not known"),
        ({"affinity": {"nodeAfinity": {}}}, "affinity.nodeAfinity is not known: did you mean nodeAffinity?"),
        ({"labels": {"a": True}}, "labels.a must be a text, not True: put it in quotes"),
        ({"labels": ["a"]}, "labels must map names to values"),
        ({"labels": {"a b": "c"}}, "labels has the key 'a b', which is none"),
        ({"labels": {"topmast.dev/model": "x"}}, "labels.topmast.dev/model is Topmast's own"),
        ({"annotations": {"topmast.dev/draining": "true"}}, "annotations.topmast.dev/draining is Topmast's own"),
        ({"imagePullSecrets": {"name": "x"}}, "imagePullSecrets must be a list"),
        ({"imagePullSecrets": ["x"]}, "imagePullSecrets[0] must be an object"),
        ({"imagePullSecrets": [{}]}, "every item of imagePullSecrets needs its name"),
        ({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}, "imagePullSecrets has a twice: keep one"),
        ({"securityContext": {"runAsUser": "0"}}, "securityContext.runAsUser must be a number, not '0'"),
        ({"securityContext": {"runAsUser": True}}, "securityContext.runAsUser must be a number, not True"),
        ({"containerSecurityContext": {"privileged": True}}, "privileged is not allowed for engines"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "the volume v needs one source of configMap"),
        ({"volumes": [{"name": "v"}]}, "the volume v needs one source of configMap"),
        ({"volumes": [{"name": "tmp", "emptyDir": {}}]}, "the volume tmp is Topmast's own"),
        ({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "much"}}]}, "sizeLimit must be a quantity such as 8Gi"),
        ({**MOUNT, "volumeMounts": [{"name": "v", "mountPath": "/cache"}]}, "nothing can be mounted at /cache"),
        ({**MOUNT, "volumeMounts": [{"name": "v", "mountPath": "/models/pvc/x"}]}, "nothing can be mounted at /models"),
        ({**MOUNT, "volumeMounts": [{"name": "v", "mountPath": "x"}]}, "choose another absolute mountPath"),
        ({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}, "names the volume v, which is not in volumes"),
        ({"env": [{"name": "HOME", "value": "/"}]}, "the variable HOME is set by Topmast"),
        ({"env": [{"name": "A", "value": 1}]}, "env[0].value must be a text, not 1: put it in quotes"),
        ({"shmSize": "lots"}, "shmSize must be a quantity such as 8Gi, not 'lots'"),
        ({"probes": {"startup": {"path": "/x"}}}, "probes.startup.path is not known"),
        ({"probes": {"live": {}}}, "probes.live is not known: did you mean liveness?"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, given: Any, sentence: str) -> None:
    with pytest.raises(PodDefaultsError) as refused:
        read(tmp_path, given)
    assert sentence in str(refused.value) and str(refused.value).startswith(str(tmp_path / "defaults.yaml"))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(PodDefaultsError) as refused:
        read(tmp_path, {"hostPID": True, "dnsPolicy": 1})
    assert "hostPID is not known" in str(refused.value) and "dnsPolicy must be a text" in str(refused.value)


def test_the_operator_does_not_start_with_defaults_that_would_break_pods(tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text("shmSiz: 8Gi\n")
    command = [sys.executable, "-m", "topmast_cli.main", "operator", "--engine-image", "x"]
    command += ["--lease-namespace", "y", "--engine-pod-defaults"]
    away = {**os.environ, "KUBECONFIG": "/nonexistent"}
    for file, sentence in ((path, "shmSiz is not known: did you mean shmSize?"), (tmp_path / "none", "cannot be read")):
        done = subprocess.run([*command, str(file)], env=away, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert "topmast operator: --engine-pod-defaults: " in done.stderr and sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1
