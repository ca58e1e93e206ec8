"""Images are built when, and only when, something in them changed, and a node is sent only what it lacks."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from topmast_cluster.errors import ClusterError
from topmast_cluster.images import recipe
from topmast_cluster.images.command import run_logged
from topmast_cluster.images.layout import blob_path, expand, keep_only, stored_image
from topmast_cluster.images.pins import pins, public_pins

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def put(layout: Path, content: bytes) -> dict[str, Any]:
    """Stores a blob; its descriptor."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = blob_path(layout, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"digest": digest, "size": len(content)}


def store(layout: Path, ref: str, *layers: bytes) -> None:
    """An image as buildah writes it: gzip layers, and a config with the digests of the plain ones."""
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = put(layout, json.dumps({"ref": ref, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode())
    packed = [{"mediaType": GZIP, **put(layout, gzip.compress(layer, mtime=0))} for layer in layers]
    manifest = put(layout, json.dumps({"schemaVersion": 2, "config": config, "layers": packed}).encode())
    index = layout / "index.json"
    manifests = json.loads(index.read_text())["manifests"] if index.exists() else []
    entry = {**manifest, "annotations": {"org.opencontainers.image.ref.name": ref}}
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*manifests, entry]}))


def names_in(archive: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return set(tar.getnames())


def test_layers_become_plain_and_keep_their_content(tmp_path: Path) -> None:
    store(tmp_path, "server", b"packages" * 1000, b"application")
    expand(tmp_path, "server")
    image = stored_image(tmp_path, "server")
    assert image is not None
    manifest = json.loads(blob_path(tmp_path, image.manifest_digest).read_text())
    assert [layer["mediaType"] for layer in manifest["layers"]] == [GZIP.removesuffix("+gzip")] * 2
    assert blob_path(tmp_path, manifest["layers"][0]["digest"]).read_bytes() == b"packages" * 1000
    for digest in image.blobs:
        assert f"sha256:{hashlib.sha256(blob_path(tmp_path, digest).read_bytes()).hexdigest()}" == digest


def test_a_layer_with_other_content_than_promised_is_refused(tmp_path: Path) -> None:
    store(tmp_path, "server", b"packages")
    image = stored_image(tmp_path, "server")
    assert image is not None
    manifest = json.loads(blob_path(tmp_path, image.manifest_digest).read_text())
    blob_path(tmp_path, manifest["layers"][0]["digest"]).write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ClusterError, match="does not have the content"):
        expand(tmp_path, "server")


def test_a_node_is_sent_only_the_layers_that_it_lacks(tmp_path: Path) -> None:
    store(tmp_path, "old", b"packages", b"application 1")
    store(tmp_path, "new", b"packages", b"application 2")
    for ref in ("old", "new"):
        expand(tmp_path, ref)
    old, new = stored_image(tmp_path, "old"), stored_image(tmp_path, "new")
    assert old is not None and new is not None
    whole, rest = io.BytesIO(), io.BytesIO()
    assert new.write_archive(whole, "docker.io/topmast/server:2") == new.size_bytes
    new.write_archive(rest, "docker.io/topmast/server:2", present=set(old.blobs))
    packages = f"blobs/sha256/{hashlib.sha256(b'packages').hexdigest()}"
    assert packages in names_in(whole.getvalue())
    assert names_in(whole.getvalue()) - names_in(rest.getvalue()) == {packages}


def test_old_images_go_and_shared_layers_stay(tmp_path: Path) -> None:
    store(tmp_path, "old", b"packages", b"application 1")
    store(tmp_path, "new", b"packages", b"application 2")
    for ref in ("old", "new"):
        expand(tmp_path, ref)
    keep_only(tmp_path, ["new"])
    assert stored_image(tmp_path, "old") is None
    image = stored_image(tmp_path, "new")
    assert image is not None
    assert {f"sha256:{blob.name}" for blob in (tmp_path / "blobs" / "sha256").iterdir()} == set(image.blobs)


def test_an_image_with_a_lost_layer_counts_as_absent(tmp_path: Path) -> None:
    store(tmp_path, "server", b"packages")
    expand(tmp_path, "server")
    blob_path(tmp_path, f"sha256:{hashlib.sha256(b'packages').hexdigest()}").unlink()
    assert stored_image(tmp_path, "server") is None


def test_the_operators_image_has_no_torch_and_no_test_tool_is_in_any_image() -> None:
    operator, server = (pins(one.extras) for one in recipe.RECIPES)
    assert {"kopf", "kubernetes", "aiohttp", "prometheus-client", "typer"} <= set(operator)
    assert {"torch", "tokenizers", "numba"} <= set(server)
    assert not {"torch", "numba", "transformers"} & set(operator)
    for tool in ("pytest", "mypy", "ruff", "transformers", "gguf", "openai"):
        assert tool not in operator and tool not in server


def test_pins_carry_no_local_version() -> None:
    assert public_pins({"torch": "2.13.0+cpu", "numpy": "2.4.6"}) == ["torch==2.13.0", "numpy==2.4.6"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in recipe.SOURCES:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "module.py").write_text("x = 1\n")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(recipe, "CHECKOUT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "rebuilds"),
    [
        (lambda root: (root / recipe.SOURCES[0] / "module.py").write_text("x = 2\n"), True),
        (lambda root: (root / recipe.SOURCES[1] / "new.py").write_text(""), True),
        (lambda root: (root / recipe.SOURCES[2] / "module.py").unlink(), True),
        (lambda root: (root / "pyproject.toml").write_text("other"), True),
        (lambda root: (root / "README.md").write_text("other"), False),
        (lambda root: (root / recipe.SOURCES[0] / "module.py").touch(), False),
    ],
)
def test_an_image_is_built_again_exactly_when_its_sources_change(
    checkout: Path, change: Callable[[Path], object], rebuilds: bool
) -> None:
    before = recipe.application_key()
    change(checkout)
    assert (recipe.application_key() != before) == rebuilds


def test_a_failed_command_says_what_to_do_and_ends_with_its_last_words(tmp_path: Path) -> None:
    seen: list[str] = []
    with pytest.raises(ClusterError) as failure:
        run_logged(
            ["sh", "-c", "echo first; echo no space left >&2; exit 3"],
            tmp_path / "log",
            seen.append,
            remedy="see that the disk has 4 GB free",
        )
    assert "see that the disk has 4 GB free" in str(failure.value)
    assert "no space left" in str(failure.value)
    assert str(tmp_path / "log") in str(failure.value)
    assert "first" in seen
