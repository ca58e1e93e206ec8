"""Images from the layout on disk into the nodes of an embedded cluster, sending only the blobs that a node lacks."""

import os
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from topmast_cluster.cluster import Cluster
from topmast_cluster.containerd import Containerd
from topmast_cluster.errors import ClusterError
from topmast_cluster.images.build import Image
from topmast_cluster.images.layout import StoredImage, blob_path


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
            _link_blobs(containerd, image.stored)
            present = set(_ctr(containerd, "content", "ls", "-q").split())
            if _import(containerd, image.stored, name, present):
                # Its garbage collector was faster than the import: send everything.
                said = _import(containerd, image.stored, name, set())
                if said:
                    raise ClusterError(
                        f"{image.reference} could not be loaded into {containerd.directory.name}: {said}; "
                        "see that the disk has 3 GB free, then run the same command again"
                    )
    return time.monotonic() - began


def _link_blobs(containerd: Containerd, image: StoredImage) -> None:
    """Gives the node its blobs as hard links, which saves reading, hashing and writing 1.3 GB per node.

    containerd takes a blob that its store has already without looking at the input; where the link is refused
    (another file system), it reads the input, and only time is lost.
    """
    store = containerd.directory / "containerd" / "io.containerd.content.v1.content" / "blobs" / "sha256"
    store.mkdir(parents=True, exist_ok=True)
    for digest, size in image.blobs.items():
        blob = blob_path(image.layout, digest)
        with suppress(OSError):
            os.link(blob, store / blob.name)
        expected = ("--expected-digest", digest, "--expected-size", str(size))
        with blob.open("rb") as content:
            command = [*_words(containerd), "content", "ingest", *expected, f"topmast-{digest}"]
            subprocess.run(command, stdin=content, capture_output=True)  # what failed is sent by the import


def _import(containerd: Containerd, image: StoredImage, name: str, present: set[str]) -> str:
    """Imports and unpacks; what ctr said if it failed, else nothing."""
    process = subprocess.Popen(
        [*_words(containerd), "images", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stderr is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # ctr may give up early; it says why
        image.write_archive(pipe, name, present)
    said = process.stderr.read().decode(errors="replace").strip()[-500:]
    return "" if process.wait() == 0 else said or f"ctr ended with {process.returncode}"


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
