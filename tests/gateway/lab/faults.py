"""What happens to pods: a model's engines behind pod objects, and the faults that strike one of them.

The gateway hears no more than a cluster would say. Each fault has a remedy after which the pod serves again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.lab.served import Served
from gateway.lab.stage import Stage

HANG_S = 3.0  # the engines' own hang detection in these tests; its least is 1
FLAGS = ("--batch-invariant", "--ttft-target-s", "120", "--hang-timeout-s", f"{HANG_S:g}")
SHORT_DRAIN = ("--drain-notice-s", "0", "--drain-timeout-s", "0.2")  # shorter than nearly every answer


class Site:
    """One model in one namespace, its engines and their pod objects."""

    def __init__(self, stage: Stage, namespace: str, model: str, engines: Sequence[Served]) -> None:
        self.stage, self.namespace, self.model, self.engines = stage, namespace, model, engines
        stage.model(namespace, model)
        self._pods = {engine.ip: stage.pod(namespace, model, engine.ip) for engine in engines}

    def kill_server(self, engine: Served) -> None:
        """The API process is gone between two bytes; its engine process ends with it."""
        engine.process.kill()

    def kill_engine(self, engine: Served) -> None:
        """The engine process alone: its API process says so to every stream, and ends."""
        os.kill(engine.engine_pid(), signal.SIGKILL)

    def freeze_engine(self, engine: Served) -> None:
        """The engine process hangs, and its API process lives on until it has noticed."""
        os.kill(engine.engine_pid(), signal.SIGSTOP)

    def freeze_pod(self, engine: Served) -> None:
        """Connections stay open and nothing comes any more, as from a node that lost its network."""
        engine.signal_all(signal.SIGSTOP)

    def thaw_pod(self, engine: Served) -> None:
        """It continues where it was, for clients that have long gone elsewhere."""
        engine.signal_all(signal.SIGCONT)

    def restart(self, engine: Served) -> None:
        """What a kubelet does with a container that ended."""
        engine.restart()

    def delete_pod(self, engine: Served) -> None:
        """deletionTimestamp and SIGTERM at the same time, as the API server and the kubelet do."""
        self._pods[engine.ip].delete()
        engine.process.terminate()

    def unlabel_pod(self, engine: Served) -> None:
        """Somebody takes the pod out of the model and ends it."""
        pod = self._pods[engine.ip]
        labels = {"metadata": {"labels": {"topmast.dev/model": None}}}
        self.stage.core.patch_namespaced_pod(pod.name, pod.namespace, labels)
        engine.process.terminate()

    def scale_in(self, engine: Served) -> None:
        """The operator's way: asked to drain, then deleted."""
        self._pods[engine.ip].annotate(draining="true")
        self.delete_pod(engine)

    def replace_pod(self, engine: Served) -> None:
        """A new pod, here at the same address."""
        engine.restart()
        self._pods[engine.ip] = self.stage.pod(self.namespace, self.model, engine.ip)


@dataclass(frozen=True)
class Fault:
    """`detection_s` is how long the fault may go unnoticed; `silent` when only silence shows it.

    `by_api` is one that the API server reports: while it is away, nobody can cause it.
    """

    strike: Callable[[Site, Served], None]
    mend: Callable[[Site, Served], None]
    detection_s: float = 0.0
    silent: bool = False
    by_api: bool = False


FAULTS = {
    "the server is killed": Fault(Site.kill_server, Site.restart),
    "the engine process is killed": Fault(Site.kill_engine, Site.restart, 1.0),
    "the engine process hangs": Fault(Site.freeze_engine, Site.restart, HANG_S + 1.0),
    "the pod freezes": Fault(Site.freeze_pod, Site.thaw_pod, silent=True),
    "the pod is deleted": Fault(Site.delete_pod, Site.replace_pod, by_api=True),
    "the pod loses its label": Fault(Site.unlabel_pod, Site.replace_pod, by_api=True),
    "the model is scaled in": Fault(Site.scale_in, Site.replace_pod, by_api=True),
}
