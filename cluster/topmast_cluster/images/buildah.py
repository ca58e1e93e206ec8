"""buildah with a storage of its own inside the cache, so that it never meets the user's containers.

Builds from Containerfiles and pushes; decides nothing about what to build.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from topmast_cluster.errors import MachineError
from topmast_cluster.images.command import run_logged
from topmast_cluster.paths import cache_dir

# Image building needs these; the cluster itself does not.
PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}


@dataclass(frozen=True)
class Buildah:
    detail: Callable[[str], None]
    log: Path

    def build(
        self,
        containerfile: Path,
        tag: str,
        *,
        args: Mapping[str, str],
        contexts: Mapping[str, Path],
    ) -> None:
        words: list[str | Path] = ["build", "--layers", "--pull-never", "--format=oci", "--file", containerfile]
        for name, value in args.items():
            words += ["--build-arg", f"{name}={value}"]
        for name, path in contexts.items():
            words += ["--build-context", f"{name}={path}"]
        # The context itself stays empty: every file comes from a named one.
        self._run(
            *words, "--tag", tag, _empty_directory(), remedy=f"the Containerfile {containerfile.name} did not build"
        )

    def image_from_tar(self, tar: Path, tag: str) -> None:
        """An image of one layer, the root file system in `tar`."""
        file = _empty_directory() / "base.Containerfile"
        file.write_text("FROM scratch\nADD base.tar /\n")
        link = _empty_directory() / "base.tar"
        link.unlink(missing_ok=True)
        os.link(tar, link)
        try:
            self._run(
                *("build", "--format=oci", "--file", file, "--tag", tag, file.parent),
                remedy="the base image could not be made from its tar file",
            )
        finally:
            link.unlink()
            file.unlink()

    def push_to_layout(self, tag: str, layout: Path, ref: str) -> None:
        """Layers that the layout has under their diff id are not written again."""
        self._run(
            *("push", "--quiet", "--compression-level=1", "--format=oci", tag, f"oci:{layout}:{ref}"),
            remedy=f"the image could not be written to {layout}; see that the disk has 4 GB free",
        )

    def push_to_registry(self, tag: str, target: str) -> None:
        insecure = target.split("/")[0].split(":")[0] in ("localhost", "127.0.0.1")
        self._run(
            *("push", "--quiet", "--compression-level=1", *(["--tls-verify=false"] if insecure else [])),
            *(tag, f"docker://{target}"),
            remedy=f"{target} could not be pushed; see that the registry can be reached and that you are logged in "
            "(`buildah login`)",
        )

    def exists(self, tag: str) -> bool:
        inspect = ["buildah", *_storage(), "inspect", "--type=image", tag]
        return subprocess.run(inspect, capture_output=True, env={**os.environ, **_environment()}).returncode == 0

    def forget_others(self, keep: set[str]) -> None:
        """Removes the images of earlier builds; layers that a kept image shares stay."""
        words = ["buildah", *_storage(), "images", "--noheading", "--format={{.Name}}:{{.Tag}}"]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **_environment()})
        for tag in done.stdout.split():
            name = tag.removesuffix(":latest")
            if name not in keep and name != "<none>:<none>":
                self._run("rmi", "--force", tag, remedy="an image of an earlier build could not be removed")

    def _run(self, *words: str | Path, remedy: str) -> None:
        if shutil.which("buildah") is None:
            raise MachineError("buildah is missing: `apt-get install buildah` and try again")
        run_logged(["buildah", *_storage(), *words], self.log, self.detail, env=_environment(), remedy=remedy)


def _storage() -> list[str]:
    home = cache_dir() / "images" / "buildah"
    return ["--root", str(home / "root"), "--runroot", str(home / "run")]


def _environment() -> dict[str, str]:
    return {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": os.environ.get("STORAGE_DRIVER", "overlay")}


def _empty_directory() -> Path:
    directory = cache_dir() / "images" / "context"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
