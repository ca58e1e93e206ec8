"""What wakes the operator: kopf watches models, Deployments and pods; an event is only a key to look at.

kopf writes nothing (event handlers alone: no annotation, no finalizer) and lives in a thread with a loop of its own,
because on stop it cancels every task of its loop. A watch that ends unasked is started again.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import kopf

from topmast_operator.api.names import ENGINE_NAME, GROUP, LABEL_MODEL, LABEL_NAME, PLURAL, VERSION
from topmast_operator.watch.login import login

Wake = Callable[[str, str], None]  # namespace, name; called in kopf's thread

log = logging.getLogger(__name__)


class _Backoffs:
    """Seconds between attempts, for ever: an API server that is away for an hour is no reason to stop watching."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 3)
        while True:
            yield 5


class Watcher:
    """The watching thread. `start` returns at once, `stop` waits for its end."""

    def __init__(self, namespaces: Sequence[str], wake: Wake, heard: Callable[[], None]) -> None:
        self._namespaces = tuple(namespaces)
        self._wake = wake
        self._heard = heard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(
                    kopf.operator(
                        registry=self._registry(),
                        settings=_settings(),
                        standalone=True,
                        clusterwide=not self._namespaces,
                        namespaces=self._namespaces,
                        stop_flag=self._stop,
                    )
                )
            except Exception:
                log.exception("watching failed; it starts again in 2 s")
            else:
                if not self._stop.is_set():
                    log.warning("watching ended unasked; it starts again in 2 s")
            self._stop.wait(2)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        engines = {LABEL_NAME: ENGINE_NAME}
        kopf.on.login(registry=registry)(login)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self._on_model)
        kopf.on.event("apps", "v1", "deployments", labels=engines, registry=registry)(self._on_child)
        kopf.on.event("", "v1", "pods", labels=engines, registry=registry)(self._on_child)
        return registry

    def _on_model(self, namespace: str | None, name: str | None, **_: Any) -> None:
        self._heard()
        if namespace and name:
            self._wake(namespace, name)

    def _on_child(self, namespace: str | None, labels: Any, **_: Any) -> None:
        self._heard()
        model = labels.get(LABEL_MODEL)
        if namespace and model:
            self._wake(namespace, model)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # or it wants to list CRDs and namespaces, and waits for that right for ever
    settings.posting.enabled = False
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.connect_timeout = 5
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 260  # a watch that went silent on the way must end here, not there
    engines = f"{LABEL_NAME}={ENGINE_NAME}"
    settings.watching.label_selectors["apps", "v1", "deployments"] = engines
    settings.watching.label_selectors["", "v1", "pods"] = engines
    return settings
