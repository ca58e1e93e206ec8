"""Applies a model and waits for it, saying all the while what its status says."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from topmast_cluster.errors import ClusterError
from topmast_cluster.quickstart.chart import pods_in_trouble
from topmast_cluster.quickstart.target import MODEL_NAMESPACE, Target

_HOPELESS_RESTARTS = 3


def apply_model(target: Target, manifest: Path) -> None:
    target.kubectl("apply", "-n", MODEL_NAMESPACE, "-f", str(manifest))


def await_model(target: Target, name: str, detail: Callable[[str], None], timeout_s: float = 240) -> None:
    """Returns when the model is Ready. Stalled, which only a human can heal, fails at once with the model's words."""
    began = time.monotonic()
    deadline = began + timeout_s
    while True:
        model = target.get("llmdeployment", name, "-n", MODEL_NAMESPACE)
        if model is None:
            raise ClusterError(f"the model {name} was deleted while it started: run `make up` again")
        status = model.get("status", {})
        current = status.get("observedGeneration") == model["metadata"]["generation"]
        stalled, ready = _condition(status, "Stalled"), _condition(status, "Ready")
        if current and ready.get("status") == "True":
            return
        if current and stalled.get("status") == "True":
            raise ClusterError(f"the model {name} cannot start: {stalled['message']}")
        detail(_progress(status))
        restarts = max((pod.get("restarts", 0) for pod in status.get("pods", [])), default=0)
        if time.monotonic() > deadline or restarts >= _HOPELESS_RESTARTS:
            waited = f"is not Ready after {time.monotonic() - began:.0f} s and {restarts} restarts"
            raise ClusterError(
                f"the model {name} {waited}: {ready.get('message', 'no status yet')}\n"
                f"{pods_in_trouble(target, MODEL_NAMESPACE)}"
            )
        time.sleep(0.5)


def stale_image(target: Target, name: str, wanted: str) -> str | None:
    """The engine image that the model runs on, when it is another one than `wanted`."""
    pods = target.get("pods", "-n", MODEL_NAMESPACE, "-l", f"topmast.dev/model={name}") or {"items": []}
    images = {str(pod["spec"]["containers"][0]["image"]) for pod in pods["items"]}
    return next(iter(images - {wanted}), None)


def _progress(status: dict[str, Any]) -> str:
    words = [str(status.get("phase") or "waiting for the operator")]
    for pod in status.get("pods", []):
        if "percent" in pod:
            words.append(f"{pod['percent']} %")
        elif pod.get("phase"):
            words.append(str(pod["phase"]).lower())
    return ", ".join(words)


def _condition(status: dict[str, Any], kind: str) -> dict[str, str]:
    conditions: list[dict[str, str]] = status.get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})
