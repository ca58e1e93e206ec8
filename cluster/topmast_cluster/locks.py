"""Who may change a cluster, and who may change what all clusters of this machine share. Locks end with their holder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topmast_cluster.paths import ClusterPaths


@contextmanager
def cluster_lock(paths: ClusterPaths) -> Iterator[None]:
    """One start or stop of a cluster at a time; a second one waits."""
    paths.lock.parent.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def machine_lock() -> Iterator[None]:
    """Held for moments: to choose addresses, and to take away what only the last cluster may. A directory is locked,
    so that no lock file is left behind."""
    directory = os.open(Path("/run"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
