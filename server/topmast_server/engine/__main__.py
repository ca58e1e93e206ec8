"""The engine process's entry point, as `launch` starts it: pipe fd, progress fd, configuration as JSON."""

from __future__ import annotations

import os
import sys
import time
from multiprocessing.connection import Connection

from topmast_server.engine.config import EngineConfig
from topmast_server.progress import Progress


def main() -> int:
    """Run the engine until it is told to stop, or the parent is gone; 1 when it could not start."""
    started_s = time.monotonic()
    pipe_fd, progress_fd, config = int(sys.argv[1]), int(sys.argv[2]), EngineConfig.from_json(sys.argv[3])
    # The terminal's Ctrl-C reaches the whole process group; draining is the parent's decision, not ours.
    os.setpgid(0, 0)
    from topmast_server.engine.process import run  # takes a while; the pipe exists already

    return run(config, Connection(pipe_fd), Progress(progress_fd), started_s=started_s)


if __name__ == "__main__":
    sys.exit(main())
