"""A model file's bytes in memory of our own: how they get there depends on where the file lies.

Two threads fill fresh memory from the page cache as fast as it goes. A network or FUSE file system takes its time for
every request, so more of them are under way at once, for large blocks; mapping such a file would fault it in page by
page (30 to 50 times slower in reports of others: vllm#24469, safetensors#562).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from topmast_server.weights.errors import ModelError, corrupt, not_found

OnProgress = Callable[[int, int], None]  # bytes done, bytes in all
BLOCK_BYTES: Final = 8 << 20
_LOCAL_THREADS, _REMOTE_THREADS = 2, 8
_MOUNTS: Final = Path("/proc/self/mountinfo")
# Types whose every read crosses a network or a user-space process; "fuse" stands for fuse.* and fuseblk, too.
_REMOTE: Final = frozenset(
    {*("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2")}
    | {*("orangefs", "pvfs2", "smb3", "smbfs", "virtiofs")}
)


@dataclass(frozen=True, slots=True)
class Place:
    """The file system that holds a model: its type as the kernel names it, and whether every read is a round trip."""

    kind: str
    remote: bool

    def __str__(self) -> str:
        return f"a {'remote' if self.remote else 'local'} file system ({self.kind})"


def place_of(path: Path, mounts: Path = _MOUNTS) -> Place:
    """Where `path` lies; unknown places count as local."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return Place("unknown", False)
    target, kind, longest = path.resolve(), "unknown", -1
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = Path(_unescaped(fields.split(" ")[4]))
        # Of two mounts on one point the later one lies on top.
        if len(point.parts) >= longest and target.is_relative_to(point):
            kind, longest = rest.split(" ")[0], len(point.parts)
    return Place(kind, kind in _REMOTE or kind.startswith("fuse"))


def read_into(path: Path, memory: memoryview, on_block: Callable[[int], None], *, remote: bool) -> None:
    """Fill `memory` with the file's bytes; `on_block` gets each finished block's size, in the caller's thread.

    Raises ModelError: ModelCorrupt when the file is shorter than `memory`, ModelNotFound when it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise _unreadable(path, error) from error
    starts = range(0, len(memory), BLOCK_BYTES)
    pool = ThreadPoolExecutor(_REMOTE_THREADS if remote else _LOCAL_THREADS, "read-weights")
    try:
        blocks = [pool.submit(_read_block, descriptor, memory[at : at + BLOCK_BYTES], at, path) for at in starts]
        for block in as_completed(blocks):
            on_block(block.result())
    finally:
        pool.shutdown(cancel_futures=True)
        os.close(descriptor)


def anonymous_copy(path: Path, on_block: Callable[[int], None]) -> int:
    """A descriptor of memory without a name that holds the file's bytes, read by several threads. Linux only."""
    size = path.stat().st_size
    descriptor = os.memfd_create("topmast-weights")
    try:
        os.ftruncate(descriptor, size)
        # Unmapped when nobody refers to it: closing it would trip over the blocks in an error's traceback.
        read_into(path, memoryview(mmap.mmap(descriptor, size)), on_block, remote=True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read_block(descriptor: int, block: memoryview, at: int, path: Path) -> int:
    done = 0
    while done < len(block):
        try:
            count = os.preadv(descriptor, [block[done:]], at + done)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not count:
            raise corrupt(
                f"{path} became shorter while it was read; fetch the model file again and compare its checksum."
            )
        done += count
    return done


def _unreadable(path: Path, error: OSError) -> ModelError:
    return not_found(f"{path} cannot be read: {error.strerror}; check the mount and its permissions.")


def _unescaped(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal escapes."""
    for code in ("040", "011", "012", "134"):
        field = field.replace(f"\\{code}", chr(int(code, 8)))
    return field
