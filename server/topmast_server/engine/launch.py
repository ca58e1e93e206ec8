"""Start the engine process: a fresh interpreter with the pipe and the progress page as inherited descriptors.

A fresh interpreter and not a fork: nothing of the API process (locks, threads, event loop) leaks into it, and its
thread settings are in place before torch is loaded. No torch here.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

from topmast_server.engine.config import EngineConfig
from topmast_server.engine.threads import thread_environment
from topmast_server.progress import Progress


@dataclass(frozen=True, slots=True)
class Launched:
    """The parent's side: the process, its end of the pipe (frames of messages.py), and the page to read."""

    process: subprocess.Popen[bytes]
    connection: Connection
    progress: Progress


def launch(config: EngineConfig) -> Launched:
    """Start the engine and return at once; it reports Loading, then Ready or Failed, over the pipe.

    The engine ends when it reads Stop, when its model cannot be loaded, and when the parent's end of the pipe closes.
    """
    ours, theirs = multiprocessing.Pipe(duplex=True)
    progress = Progress()
    command = [sys.executable, "-m", "topmast_server.engine"]
    command += [str(theirs.fileno()), str(progress.fileno()), config.to_json()]
    try:
        process = subprocess.Popen(
            command,
            env=thread_environment(),
            pass_fds=(theirs.fileno(), progress.fileno()),
            stdin=subprocess.DEVNULL,
            cwd=os.sep,
        )
    finally:
        theirs.close()
    return Launched(process, ours, progress)
