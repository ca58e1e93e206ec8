"""How a model's bytes get into memory: the same bytes either way, true progress, a sentence when the file shrinks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from topmast_server.weights import files
from topmast_server.weights.errors import ModelError
from topmast_server.weights.files import Place, anonymous_copy, place_of, read_into

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
30 22 0:40 / /models rw,relatime shared:1 - nfs4 server:/models rw,vers=4.2
31 30 0:41 / /models/local rw - xfs /dev/vdb rw
32 22 0:42 / /mnt/my\040bucket rw - fuse.s3fs s3fs rw
33 22 0:43 / /mnt/over rw - nfs server:/x rw
34 33 0:44 / /mnt/over rw - tmpfs tmpfs rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("path", "kind", "remote"),
    [
        ("/home/model.gguf", "ext4", False),
        ("/models/model.gguf", "nfs4", True),
        ("/models-of-mine/model.gguf", "ext4", False),
        ("/models/local/model.gguf", "xfs", False),
        ("/mnt/my bucket/model", "fuse.s3fs", True),
        ("/mnt/over/model", "tmpfs", False),
    ],
)
def test_the_innermost_and_latest_mount_counts(mounts: Path, path: str, kind: str, remote: bool) -> None:
    assert place_of(Path(path), mounts) == Place(kind, remote)


def test_an_unknown_place_counts_as_local(tmp_path: Path) -> None:
    assert place_of(tmp_path, tmp_path / "missing") == Place("unknown", False)
    assert place_of(tmp_path).kind != "unknown"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, bytes]]:
    """A file of 41 blocks and a bit."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 4096)
    content = np.random.default_rng(0).bytes(41 * 4096 + 99)
    path = tmp_path / "weights"
    path.write_bytes(content)
    yield path, content
    assert not any(fd.readlink() == path for fd in _descriptors()), "the file was left open"


def _descriptors() -> list[Path]:
    return [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]


@pytest.mark.parametrize("remote", [True, False])
def test_every_byte_arrives_and_is_counted_once(file: tuple[Path, bytes], remote: bool) -> None:
    path, content = file
    memory, seen = bytearray(len(content)), []
    read_into(path, memoryview(memory), seen.append, remote=remote)
    assert bytes(memory) == content
    assert sum(seen) == len(content) and len(seen) == 42


def test_a_copy_without_a_name_holds_the_same(file: tuple[Path, bytes]) -> None:
    path, content = file
    seen: list[int] = []
    descriptor = anonymous_copy(path, seen.append)
    try:
        assert os.pread(descriptor, len(content) + 1, 0) == content
    finally:
        os.close(descriptor)
    assert sum(seen) == len(content)


@pytest.mark.parametrize("remote", [True, False])
def test_a_file_that_shrinks_meanwhile_is_refused(file: tuple[Path, bytes], remote: bool) -> None:
    path, content = file
    memory = bytearray(len(content))

    def cut(_: int) -> None:
        os.truncate(path, 10)

    os.truncate(path, len(content) - 5)
    with pytest.raises(ModelError, match=r"became shorter while it was read; fetch") as caught:
        read_into(path, memoryview(memory), cut, remote=remote)
    assert caught.value.code == "ModelCorrupt"


def test_what_cannot_be_read_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(ModelError, match=r"folder cannot be read: .*; check the mount"):
        anonymous_copy(path, lambda size: None)
