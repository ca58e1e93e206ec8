"""`make up` and `make down` before they touch anything: which cluster is meant, and what is said when it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from topmast_cluster.cluster import Cluster
from topmast_cluster.errors import MachineError
from topmast_cluster.quickstart.target import Target, wants_own_cluster


@pytest.fixture(autouse=True)
def no_cluster_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("TOPMAST_CACHE", str(tmp_path / "cache"))


def up(**variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m topmast_cluster.up` as a user calls it."""
    command = [sys.executable, "-m", "topmast_cluster.up"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **variables})


def test_a_cluster_of_ones_own_without_a_registry_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").touch()
    done = up(KUBECONFIG=str(tmp_path / "kubeconfig"), IMAGE_REGISTRY="", TOPMAST_IMAGE_REGISTRY="")
    assert done.returncode == 2
    assert "IMAGE_REGISTRY=" in done.stderr and "Traceback" not in done.stderr


def test_a_kubeconfig_that_is_not_there_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    done = up(KUBECONFIG=str(tmp_path / "nothing"), IMAGE_REGISTRY="registry.example.org/team")
    assert done.returncode == 2
    assert "is no file" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "cache" / "images").exists()


def test_the_kubeconfig_that_make_up_printed_means_the_embedded_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wants_own_cluster()
    monkeypatch.setenv("KUBECONFIG", str(Cluster().kubeconfig))
    assert not wants_own_cluster()
    monkeypatch.setenv("KUBECONFIG", "/somewhere/else")
    assert wants_own_cluster()


def test_without_helm_the_users_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kubeconfig").touch()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="kubectl is needed"):
        Target.own("registry.example.org/team")
