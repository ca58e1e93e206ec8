"""What one more gateway process costs: memory, CPU time while nobody asks, and the time from its start to ready.

For the decision why there is no --workers: a second process is a second watch and a second copy of everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from gateway.lab.stage import Gateway, Stage
from gateway_bench.front import Front, memory_mib, process_cpu_s


async def processes(front: Front, scale: float) -> dict[str, Any]:
    """Without models, and with a thousand that have no pods."""
    models, seconds = max(10, round(1000 * scale)), max(0.2, 10 * scale)
    return await asyncio.to_thread(_measure, front.stage, models, seconds)


def _measure(stage: Stage, models: int, seconds: float) -> dict[str, Any]:
    namespace = stage.namespace()
    with _started(stage, namespace) as (gateway, empty):
        empty |= _idle(gateway, seconds)
    with _many(stage, namespace, models), _started(stage, namespace) as (one, first):
        first |= _idle(one, seconds)
        alone_mib = _proportional_mib(one)
        with _started(stage, namespace) as (other, second):
            second |= _idle(other, seconds)
            both_mib = _proportional_mib(one, other)
    return {
        "models": models,
        "empty": empty,
        "first": first,
        "second": second,
        # Pages that both use, such as the interpreter's own code, count once.
        "second_adds_mib": round(both_mib - alone_mib, 1),
    }


@contextlib.contextmanager
def _started(stage: Stage, namespace: str) -> Iterator[tuple[Gateway, dict[str, Any]]]:
    """A gateway that is ready, and what it took until then."""
    began_s = time.monotonic()
    gateway = Gateway(stage.kubeconfig, "--namespace", namespace, "--drain-notice-s", "0")
    try:
        gateway.wait_ready()
        ready_s = time.monotonic() - began_s
        yield gateway, {"ready_s": round(ready_s, 2), "cpu_s_until_ready": round(process_cpu_s(gateway.process.pid), 2)}
        gateway.stop()
    finally:
        gateway.close()


def _idle(gateway: Gateway, seconds: float) -> dict[str, float]:
    """Memory, and milliseconds of CPU time in each second, while nobody asks."""
    pid = gateway.process.pid
    time.sleep(min(1.0, seconds))  # what a start leaves to be done
    cpu_s, at_s = process_cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    spent_s, passed_s = process_cpu_s(pid) - cpu_s, time.monotonic() - at_s
    return {
        "rss_mib": round(memory_mib(pid, "status", "VmRSS"), 1),
        "idle_cpu_ms_per_s": round(spent_s / passed_s * 1e3, 2),
    }


def _proportional_mib(*gateways: Gateway) -> float:
    return sum(memory_mib(gateway.process.pid, "smaps_rollup", "Pss:") for gateway in gateways)


@contextlib.contextmanager
def _many(stage: Stage, namespace: str, models: int) -> Iterator[None]:
    """So many models in the namespace while the block runs."""
    for number in range(models):
        stage.model(namespace, f"model-{number}")
    try:
        yield
    finally:
        stage.custom.delete_collection_namespaced_custom_object("topmast.dev", "v1alpha1", namespace, "llmdeployments")
