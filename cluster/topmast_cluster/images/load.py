"""Images from the layout on disk into the nodes of an embedded cluster, sending only the blobs that a node lacks."""

import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from topmast_cluster.cluster import Cluster
from topmast_cluster.containerd import Containerd
from topmast_cluster.errors import ClusterError
from topmast_cluster.images.build import Image


def load_images(cluster: Cluster, images: Iterable[Image]) -> dict[str, float]:
    """Into every node that is up, all nodes at once. Node -> seconds; 0.1 s or so where they are there already."""
    wanted = list(images)
    nodes = [name for name, state in cluster.status().nodes.items() if state != "down"]
    if not nodes:
        raise ClusterError(
            f"the cluster {cluster.names.cluster} has no node to load images into: start it with --nodes 1"
        )
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        seconds = pool.map(lambda node: _load(Containerd(cluster.paths.node(node)), wanted), nodes)
        return dict(zip(nodes, seconds, strict=True))


def _load(containerd: Containerd, images: list[Image]) -> float:
    began = time.monotonic()
    known = _ctr(containerd, "images", "ls", "-q").split()
    for image in images:
        name = f"docker.io/{image.reference}"
        if name not in known:
            present = set(_ctr(containerd, "content", "ls", "-q").split())
            _import(containerd, image, name, present)
    return time.monotonic() - began


def _import(containerd: Containerd, image: Image, name: str, present: set[str]) -> None:
    process = subprocess.Popen(
        [*_words(containerd), "images", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stderr is not None
    try:
        with process.stdin as pipe:
            image.stored.write_archive(pipe, name, present)
    except BrokenPipeError:
        pass  # ctr gave up; what it says is read below
    finally:
        said = process.stderr.read().decode(errors="replace").strip()
        process.wait()
    if process.returncode != 0:
        raise ClusterError(
            f"{image.reference} could not be loaded into {containerd.directory.name}: {said[-500:]}; "
            "see that the disk has 3 GB free, then run the same command again"
        )


def _ctr(containerd: Containerd, *arguments: str) -> str:
    done = subprocess.run([*_words(containerd), *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise ClusterError(
            f"containerd of {containerd.directory.name} does not answer: {done.stderr.strip()}; "
            "`python -m topmast_cluster status` says what runs"
        )
    return done.stdout


def _words(containerd: Containerd) -> list[str]:
    return ["ctr", "--address", str(containerd.socket), "--namespace", "k8s.io"]
