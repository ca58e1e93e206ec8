"""Runs a long command: its output goes to a log file, its last line to the progress line, its end to the error."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from topmast_cluster.errors import ClusterError

_SHOWN_LINES = 15


def run_logged(
    command: Sequence[str | Path],
    log: Path,
    detail: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    remedy: str,
) -> None:
    """Raises ClusterError with the last lines of the output and `remedy` when the command fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    tail: list[str] = []
    with log.open("w") as record:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                record.write(line)
                tail = [*tail, line.rstrip()][-_SHOWN_LINES:]
                if line.strip():
                    detail(line.strip()[:90])
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        shown = "\n".join(f"    {line}" for line in tail)
        raise ClusterError(f"`{' '.join(words[:3])} ...` failed: {remedy}. It said:\n{shown}\n  The whole log: {log}")
