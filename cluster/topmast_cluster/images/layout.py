"""An OCI image layout on disk: which image it holds under which name, and archives of the blobs somebody still lacks.

Layers shared by several images lie there once. Format: OCI Image Layout Specification 1.0.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from topmast_cluster.errors import ClusterError

_REF = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class StoredImage:
    """One image of a layout: its manifest's descriptor and every blob that it needs (digest -> bytes)."""

    layout: Path
    ref: str
    descriptor: dict[str, Any]
    blobs: dict[str, int]

    @property
    def manifest_digest(self) -> str:
        return str(self.descriptor["digest"])

    @property
    def size_bytes(self) -> int:
        return sum(self.blobs.values())

    def write_archive(self, out: IO[bytes], name: str, present: Collection[str] = ()) -> int:
        """Writes an OCI archive that containerd imports as `name`; returns the bytes of the blobs in it.

        Blobs whose digest is in `present` are left out: containerd takes them from its own store.
        """
        descriptor = {**self.descriptor, "annotations": {"io.containerd.image.name": name}}
        index = {"schemaVersion": 2, "manifests": [descriptor]}
        written = 0
        with tarfile.open(fileobj=out, mode="w|") as archive:
            _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(archive, "index.json", json.dumps(index).encode())
            for digest, size in self.blobs.items():
                if digest not in present:
                    archive.add(blob_path(self.layout, digest), arcname=f"blobs/{digest.replace(':', '/')}")
                    written += size
        return written


def stored_image(layout: Path, ref: str) -> StoredImage | None:
    """The image called `ref`, or None when the layout lacks it or one of its blobs."""
    for descriptor in _index(layout):
        if descriptor.get("annotations", {}).get(_REF) == ref:
            manifest_path = blob_path(layout, descriptor["digest"])
            if not manifest_path.is_file():
                return None
            manifest = json.loads(manifest_path.read_text())
            blobs = {part["digest"]: part["size"] for part in [*manifest["layers"], manifest["config"], descriptor]}
            complete = all(blob_path(layout, digest).is_file() for digest in blobs)
            return StoredImage(layout, ref, descriptor, blobs) if complete else None
    return None


def expand(layout: Path, ref: str) -> None:
    """Turns the gzip layers of `ref` into plain ones, named by their diff id.

    buildah always compresses towards a layout. Plain layers import several times faster, and buildah finds
    a layer that it is about to write by its diff id, so it never compresses the same layer twice.
    """
    (descriptor,) = [item for item in _index(layout) if item.get("annotations", {}).get(_REF) == ref]
    manifest = json.loads(blob_path(layout, descriptor["digest"]).read_text())
    diff_ids = json.loads(blob_path(layout, manifest["config"]["digest"]).read_text())["rootfs"]["diff_ids"]
    for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True):
        if layer["mediaType"].endswith("+gzip"):
            plain = blob_path(layout, diff_id)
            _gunzip(blob_path(layout, layer["digest"]), plain)
            media_type = layer["mediaType"].removesuffix("+gzip")
            layer.update(mediaType=media_type, digest=diff_id, size=plain.stat().st_size)
    content = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blob_path(layout, digest).write_bytes(content)
    kept = [item for item in _index(layout) if item.get("annotations", {}).get(_REF) != ref]
    _write_index(layout, [*kept, {**descriptor, "digest": digest, "size": len(content)}])


def keep_only(layout: Path, refs: Collection[str]) -> None:
    """Forgets every other image and removes the blobs that none of the kept ones needs."""
    kept = [item for item in _index(layout) if item.get("annotations", {}).get(_REF) in refs]
    needed: set[str] = set()
    for ref in refs:
        image = stored_image(layout, ref)
        needed |= set(image.blobs) if image else set()
    _write_index(layout, kept)
    for blob in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{blob.name}" not in needed:
            blob.unlink()


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _index(layout: Path) -> list[dict[str, Any]]:
    index = layout / "index.json"
    manifests: list[dict[str, Any]] = json.loads(index.read_text())["manifests"] if index.is_file() else []
    return manifests


def _write_index(layout: Path, manifests: list[dict[str, Any]]) -> None:
    new = layout / ".index.json"
    new.write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    new.rename(layout / "index.json")


def _gunzip(source: Path, target: Path) -> None:
    """Complete or absent, and checked against the digest that is its name."""
    new, check = target.with_name(f".{target.name}"), hashlib.sha256()
    with gzip.open(source, "rb") as packed, new.open("wb") as plain:
        while chunk := packed.read(1 << 20):
            check.update(chunk)
            plain.write(chunk)
    if check.hexdigest() != target.name:
        new.unlink()
        raise ClusterError(
            f"the layer {source} does not have the content that its image promises: remove {source.parents[2]}"
        )
    new.rename(target)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
