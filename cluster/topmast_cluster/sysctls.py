"""Kernel settings of the whole machine that a kubelet changes as it starts, and one that several nodes need.

Recorded before the first cluster starts and put back after the last one has stopped.
"""

import json
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc/sys")

# kubelet writes these (kernel panics on oops and reboots, among others): not what a laptop wants to keep.
_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Each kubelet and containerd holds several; the kernel's 128 do not suffice for two clusters.
_INOTIFY = "fs/inotify/max_user_instances"
_INOTIFY_AT_LEAST = 1024


# In /run, because like the settings themselves it ends with the machine's boot.
RECORD = Path("/run/topmast-sysctls.json")


def prepare(record: Path = RECORD) -> None:
    """Records what is set now, unless another cluster of ours has done so, and raises the inotify limit."""
    if not record.exists():
        record.write_text(json.dumps({name: _read(name) for name in (*_KUBELET, _INOTIFY)}))
    if int(_read(_INOTIFY) or 0) < _INOTIFY_AT_LEAST:
        _write(_INOTIFY, str(_INOTIFY_AT_LEAST))


def restore(record: Path = RECORD) -> None:
    """Puts the recorded values back; those that are right already are left alone."""
    if not record.exists():
        return
    values = json.loads(record.read_text())
    for name, value in values.items():
        if value and _read(name) != value:
            _write(name, value)
    record.unlink()


def _read(name: str) -> str:
    try:
        return (_PROC / name).read_text().strip()
    except OSError:
        return ""


def _write(name: str, value: str) -> None:
    with suppress(OSError):  # read-only in a container; then the kubelet cannot have changed it either
        (_PROC / name).write_text(value)
