"""Requests and limits of the engine container.

A pod without requests is the first to be evicted and is refused where a quota counts them, so one that names none gets
what its weights suggest. They are never limits: an engine may use what is idle.
"""

import math
from typing import Any

from topmast_operator.api import quantity
from topmast_operator.api.pod import PodSettings
from topmast_operator.api.resource import Model

GIB = 2**30
LEAST_CPU_M, MOST_CPU_M, CPU_M_PER_GIB = 250, 4000, 250
STEP_BYTES = GIB // 4
PROGRAMS_BYTES = GIB  # of both processes, with the work of a few requests


def resources(model: Model, pod: PodSettings) -> dict[str, Any]:
    """The container's `resources`: what was asked for, and suggested requests of cpu and memory where nothing was."""
    asked = model.resources
    limits: dict[str, str] = {}
    if asked.cpu is not None:
        limits["cpu"] = quantity.cpu(asked.cpu)
    if asked.memory is not None:
        limits["memory"] = quantity.memory(asked.memory)
    if asked.ephemeral_storage is not None:
        limits["ephemeral-storage"] = quantity.memory(asked.ephemeral_storage)
    if asked.accelerator:
        limits[asked.accelerator.resource] = str(asked.accelerator.count)
    limits |= {name: str(count) for name, count in sorted(asked.extended.items())}
    requests = {**suggested(model), **limits}
    if "cpu" in asked.requests:
        requests["cpu"] = quantity.cpu(asked.requests["cpu"])
    if "memory" in asked.requests:
        requests["memory"] = quantity.memory(asked.requests["memory"])
    rendered: dict[str, Any] = {"requests": requests}
    if limits:
        rendered["limits"] = limits
    if claims := pod.get("resourceClaims"):
        rendered["claims"] = [{"name": claim["name"]} for claim in claims]
    return rendered


def suggested(model: Model) -> dict[str, str]:
    """CPU and memory for weights of a size that an earlier start has measured; for an unknown one, the least.

    Too much would keep a model from a node that can run it: weights and KV cache count once, and not at all where an
    accelerator holds them.
    """
    on_cpus = model.resources.accelerator is None
    weights = (known_weights_bytes(model) or 0) if on_cpus else 0
    cache = quantity.as_bytes(model.engine.kv_cache_bytes) if on_cpus and model.engine.kv_cache_bytes else 0
    cpu_m = min(MOST_CPU_M, max(LEAST_CPU_M, weights * CPU_M_PER_GIB // GIB))
    memory = PROGRAMS_BYTES + math.ceil((weights + cache) / STEP_BYTES) * STEP_BYTES
    return {"cpu": quantity.cpu(f"{cpu_m}m"), "memory": quantity.memory(memory)}


def known_weights_bytes(model: Model) -> int | None:
    """The size of this source's weights, when an engine has told it before."""
    measured = model.status.get("model", {})
    return measured.get("weightsBytes") if measured.get("source") == model.source else None
