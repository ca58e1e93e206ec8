"""A machine that cannot run a cluster is told what to do in one sentence; what is shared with it is given back."""

import os
import platform
import shutil
from pathlib import Path

import pytest

from topmast_cluster import sysctls
from topmast_cluster.__main__ import main
from topmast_cluster.archive import write_image
from topmast_cluster.versions import BUILDS


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPMAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TOPMAST_BIN_DIR", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which a command gives up with exit code 2."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said
    return said


def test_without_root_it_says_sudo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo" in refused(capsys, "start")
    assert "sudo" in refused(capsys, "stop")


def test_elsewhere_than_on_linux_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "Linux virtual machine" in refused(capsys, "start")


def test_without_go_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda program, **where: None if program == "go" else which(program, **where))
    assert "install Go" in refused(capsys, "start")


def test_a_directory_of_programs_that_lacks_some_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "etcd").touch(mode=0o755)
    monkeypatch.setenv("TOPMAST_BIN_DIR", str(tmp_path))
    said = refused(capsys, "start")
    assert "kube-apiserver" in said and "helm" in said and "etcd" not in said.split("lacks")[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--name", "other", "start"], "is no name for a cluster"),
        (["start", "--nodes", "-1"], "0 (control plane only) to 99"),
        (["start", "--gpus", "node-1"], "--gpus node-1=2"),
        (["start", "--gpus", "node-2=1"], "GPUs are a number"),
        (["kubectl", "get", "pods"], "start it with"),
        (["load-image", "/nonexistent.tar"], "build the images first"),
    ],
)
def test_bad_input_gets_a_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said


def test_versions_are_what_the_go_modules_pin() -> None:
    keys = {build.folder: build.key for build in BUILDS}
    assert set(keys) == {"etcd", "kubernetes", "helm"}
    kubernetes = next(build for build in BUILDS if build.folder == "kubernetes")
    assert f"gitVersion={kubernetes.version}" in kubernetes.link_flags()
    assert kubernetes.version in keys["kubernetes"]


def test_kernel_settings_are_given_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, record = tmp_path / "proc", tmp_path / "record"
    for name in ("kernel/panic", "fs/inotify/max_user_instances"):
        (proc / name).parent.mkdir(parents=True)
        (proc / name).write_text("7\n")
    monkeypatch.setattr(sysctls, "_PROC", proc)
    sysctls.prepare(record)
    assert int((proc / "fs/inotify/max_user_instances").read_text()) >= 1024
    (proc / "kernel/panic").write_text("10\n")  # as kubelet does
    sysctls.prepare(record)  # a second cluster must not take this for the original
    sysctls.restore(record)
    assert (proc / "kernel/panic").read_text().strip() == "7"
    assert (proc / "fs/inotify/max_user_instances").read_text().strip() == "7"
    assert not record.exists()


def test_an_image_of_the_same_files_has_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"x")
    for name in ("one", "two"):
        write_image(tmp_path / name, "topmast/pause:1", {"/bin/program": tmp_path / "program"}, ["/bin/program"])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
