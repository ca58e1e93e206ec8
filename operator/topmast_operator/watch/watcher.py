"""The thread in which kopf watches. It starts again when it ends unasked, with empty indices.

In a thread with a loop of its own, because kopf on its end cancels every task of its loop that it did not find there.
"""

import importlib
import logging
import threading
from collections.abc import Sequence

import kopf
import uvloop

from topmast_operator.watch.bell import Bell
from topmast_operator.watch.startup import wake_once

AGAIN_S = 2.0

log = logging.getLogger(__name__)


class Watcher:
    """`start` returns at once, `stop` waits for the end, `restart` lets kopf begin anew."""

    def __init__(self, namespaces: Sequence[str], bell: Bell) -> None:
        self._namespaces = tuple(namespaces)
        self._bell = bell
        self._ended = threading.Event()  # for good
        self._stop = threading.Event()  # what kopf looks at
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        wake_once()
        # As `kopf run -m` does it: a handler is registered when its module is imported.
        importlib.import_module("topmast_operator.watch.handlers")
        if not self._namespaces:
            importlib.import_module("topmast_operator.watch.node_handlers")
        self._thread.start()

    def restart(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        self._ended.set()
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._stop.clear()
            if self._ended.is_set():  # it was just then
                return
            try:
                uvloop.run(
                    kopf.operator(
                        memo=kopf.Memo(bell=self._bell),
                        standalone=True,
                        clusterwide=not self._namespaces,
                        namespaces=self._namespaces,
                        stop_flag=self._stop,
                    )
                )
            except Exception:
                log.exception("watching failed; it starts again in %.0f s", AGAIN_S)
            if not self._ended.is_set():
                if not self._stop.is_set():
                    log.warning("watching ended unasked; it starts again in %.0f s", AGAIN_S)
                self._stop.wait(AGAIN_S)
