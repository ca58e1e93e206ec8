"""Builds the Kubernetes programs from pinned Go modules, once, into the user's cache; never into the checkout.

`TOPMAST_BIN_DIR` names a directory of ready programs instead; then nothing is built.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from topmast_cluster.errors import MachineError
from topmast_cluster.paths import cache_dir
from topmast_cluster.progress import Progress
from topmast_cluster.versions import BUILDS, GO_MODULES, REGISTRY, GoBuild


@dataclass(frozen=True)
class Binaries:
    """Program name -> where it is."""

    paths: dict[str, Path]

    def __getitem__(self, program: str) -> Path:
        return self.paths[program]

    def directories(self) -> list[Path]:
        return list(dict.fromkeys(path.parent for path in self.paths.values()))


def ensure_binaries(progress: Progress) -> Binaries:
    """All programs, built if the cache lacks them. A second call only looks at the files."""
    named = os.environ.get("TOPMAST_BIN_DIR")
    if named:
        return _from_directory(Path(named).expanduser().resolve())
    return Binaries({name: path for build in BUILDS for name, path in _built(build, progress).items()})


def ensure_registry(progress: Progress) -> Path:
    """The container registry that tests push to."""
    return _built(REGISTRY, progress)["registry"]


def _built(build: GoBuild, progress: Progress) -> dict[str, Path]:
    directory = cache_dir() / "bin" / build.key
    if not _complete(directory, build):
        _build_once(build, directory, progress)
    return {program: directory / program for program in build.programs}


def _from_directory(directory: Path) -> Binaries:
    programs = [program for build in BUILDS for program in build.programs]
    missing = [name for name in programs if not os.access(directory / name, os.X_OK)]
    if missing:
        raise MachineError(
            f"TOPMAST_BIN_DIR={directory} lacks {', '.join(missing)}: "
            "put them there, or unset TOPMAST_BIN_DIR to have them built"
        )
    return Binaries({name: directory / name for name in programs})


def _complete(directory: Path, build: GoBuild) -> bool:
    return all((directory / program).is_file() for program in build.programs)


def _build_once(build: GoBuild, directory: Path, progress: Progress) -> None:
    if shutil.which("go") is None:
        raise MachineError(
            "Go is needed to build Kubernetes and is not installed: install Go 1.26 or newer, "
            "or set TOPMAST_BIN_DIR to a directory with the ready programs"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".lock").open("w") as lock, progress.phase(f"build {build.folder}") as detail:
        while not _try_lock(lock.fileno()):
            detail("another run is building")
            time.sleep(0.5)
        if _complete(directory, build):
            return
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{build.folder}-") as scratch:
            for output, packages in _commands(build, Path(scratch)):
                _go_build(build, output, packages, detail)
            Path(scratch).chmod(0o755)
            shutil.rmtree(directory, ignore_errors=True)
            Path(scratch).rename(directory)
            Path(scratch).mkdir()  # the temporary directory's own clean-up expects it


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _commands(build: GoBuild, scratch: Path) -> list[tuple[Path, list[str]]]:
    """All programs in one `go build` share the compiled packages; a single one is named by its file,
    because etcd's package would be called v3."""
    if len(build.programs) == 1:
        ((program, package),) = build.programs.items()
        return [(scratch / program, [package])]
    return [(scratch, list(build.programs.values()))]


def _go_build(build: GoBuild, output: Path, packages: list[str], detail: Callable[[str], None]) -> None:
    command = ["go", "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", build.link_flags(), "-o", f"{output}"]
    if output.is_dir():
        command[-1] += "/"
    env = {**os.environ, "CGO_ENABLED": "0"}
    process = subprocess.Popen(
        [*command, *packages], cwd=GO_MODULES / build.folder, env=env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines: list[str] = []  # `-v` prints a line per package compiled
    reader = threading.Thread(target=_read_lines, args=(process.stderr, lines), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            detail(f"{len(lines)} packages compiled" if lines else "starting")
            time.sleep(0.2)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    reader.join()
    if process.returncode != 0:
        raise MachineError(
            f"building {build.folder} {build.version} failed; see that Go can reach its module proxy "
            "and that the disk has 6 GB free. Go said:\n" + "".join(lines[-12:]).strip()
        )


def _read_lines(stream: IO[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line)
