"""One measurement from nothing to a restart, and the bars that it is held against."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from operatorlab.world import Process, World

from operator_bench import town
from topmast_operator.api.resource import parse
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import children
from topmast_operator.render.template import EngineDefaults, render_template

IDLE_S = 120.0
SETTLE_S = 45.0  # after the last model is Ready: rates of the poller's window, the last events
API = "/apis/topmast.dev/v1alpha1"
MODELS, ALL_MODELS = f"{API}/namespaces/{{}}/llmdeployments", f"{API}/llmdeployments"
PASSES = 'topmast_operator_reconciles_total{result="done"}'
KNOWN = "topmast_operator_models"

Figures = dict[str, Any]


def measure(count: int, foreign: int, idle_s: float = IDLE_S) -> Figures:
    """All figures for so many models among so many pods of others."""
    figures: Figures = {"models": count, "foreign_pods": foreign}
    with tempfile.TemporaryDirectory() as directory, town.town(Path(directory)) as world:
        figures["by_hand"] = _shown(_by_hand(world, count))
    with tempfile.TemporaryDirectory() as directory, town.town(Path(directory)) as world:
        town.create(world, "/api/v1/namespaces/{}/pods", town.strangers(foreign))
        with world.operator() as process:
            figures["start"] = _now(process)
            figures["burst"] = _shown(_burst(world, process, count))
            figures["idle"] = _shown(_idle(world, process, idle_s))
            figures["crowded"] = _shown(_crowded(world, process))
        figures["restart"] = _shown(_restart(world, count))
    return figures


def _by_hand(world: World, count: int) -> Figures:
    """The same Deployments and Services without an operator: what Kubernetes itself takes on this machine."""
    town.create(world, MODELS, town.models(count))
    deployments, services = [], []
    for body in town.listed(world, ALL_MODELS):
        model = parse(body)
        revision = revision_of(model)
        template = render_template(model, revision, EngineDefaults(image="registry.example/topmast/server:1"))
        deployments.append(children.deployment(model, revision, template, 1, proven=False, failed=None))
        services.append(children.service(model))
    started = time.monotonic()
    town.create(world, "/apis/apps/v1/namespaces/{}/deployments", deployments)
    town.create(world, "/api/v1/namespaces/{}/services", services)
    created_s = time.monotonic() - started

    def ready() -> bool:
        found = town.listed(world, "/apis/apps/v1/deployments")
        return sum(deployment["status"].get("readyReplicas", 0) for deployment in found) == count

    return {"children_s": round(created_s, 1), "ready_s": round(_until(ready, started, every_s=5.0), 1)}


def _burst(world: World, process: Process, count: int) -> Figures:
    """All models at once, until every child is there, and until every model is Ready."""
    before, since, started = town.usage(process), time.time(), time.monotonic()
    create_s = town.create(world, MODELS, town.models(count))

    def children() -> bool:
        kinds = ("/apis/apps/v1/deployments", "/api/v1/services")
        return all(town.count(world, kind) >= count for kind in kinds)

    def ready() -> bool:
        models = town.listed(world, ALL_MODELS)
        return len(models) == count and all(model["status"].get("phase") == "Ready" for model in models)

    children_s = _until(children, started)
    ready_s = _until(ready, started, every_s=5.0)  # a look reads every model: the API server is to have other work
    time.sleep(SETTLE_S)
    after = town.usage(process)
    return {
        "create_s": round(create_s, 1),
        "children_s": round(children_s, 1),
        "ready_s": round(ready_s, 1),
        "cpu_ms_per_model": round(1000 * (after.cpu_s - before.cpu_s) / count, 2),
        "passes_per_model": round(process.metric(PASSES) / count, 1),
        "requests": dict(town.asked(world, since)),
        **_now(process),
    }


def _idle(world: World, process: Process, idle_s: float) -> Figures:
    """Nothing happens; every engine is asked for its state all the same."""
    passes, before, since = process.metric(PASSES), town.usage(process), time.time()
    time.sleep(idle_s)
    after, requests = town.usage(process), town.asked(world, since)
    return {
        "seconds": idle_s,
        "share_of_a_core": round((after.cpu_s - before.cpu_s) / idle_s, 4),
        "requests_per_minute": round(60 * sum(requests.values()) / idle_s, 1),
        "requests": dict(requests),
        "passes": process.metric(PASSES) - passes,
        **_now(process),
    }


def _crowded(world: World, process: Process) -> Figures:
    """Twenty models that want more devices than any node has: room is asked for, among the pods of others."""
    wants = town.models(20, resources={"accelerator": {"count": 9}})
    for number, body in enumerate(wants):
        body["metadata"]["name"] = f"greedy-{number}"
    before, since = town.usage(process), time.time()
    town.create(world, MODELS, wants)
    time.sleep(60)
    after, requests = town.usage(process), town.asked(world, since)
    return {
        "share_of_a_core": round((after.cpu_s - before.cpu_s) / 60, 4),
        "pages_of_pods": requests["list pods"],
        **_now(process),
    }


def _restart(world: World, count: int) -> Figures:
    """A new process finds everything as it should be."""
    since = time.time() + 1
    time.sleep(2)
    with world.operator() as process:
        started = time.monotonic()
        _until(lambda: process.metric(KNOWN) >= count, started)
        looked_s = time.monotonic() - started
        time.sleep(20)
        requests = town.asked(world, since)
        return {"all_looked_at_s": round(looked_s, 1), "writes": town.writes(requests), "requests": dict(requests),
                **_now(process)}  # fmt: skip


def _shown(figures: Figures) -> Figures:
    """A run takes minutes: what is known of it already is told."""
    print(json.dumps(figures), flush=True)
    return figures


def _now(process: Process) -> Figures:
    return {name: value for name, value in dataclasses.asdict(town.usage(process)).items() if name != "cpu_s"}


def _until(look: Any, started: float, timeout_s: float = 600.0, every_s: float = 1.0) -> float:
    while not look():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"not within {timeout_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - started


def bars(figures: Figures) -> list[Figures]:
    """What is wanted of a thousand models, each with whether it was met."""
    burst, idle, restart = figures["burst"], figures["idle"], figures["restart"]
    peak = max(part["peak_mib"] for part in figures.values() if isinstance(part, dict) and "peak_mib" in part)
    wanted = (
        ("idle: share of a core, polls included", idle["share_of_a_core"], 0.05),
        ("idle: requests a minute beside the Lease's", idle["requests_per_minute"], 20),
        ("burst: seconds to every child", burst["children_s"], 90),
        ("burst: ms of processor time a model", burst["cpu_ms_per_model"], 40),
        ("most memory, MiB", peak, 250),
        ("restart: writes", restart["writes"], 0),
    )
    return [{"text": text, "value": value, "most": most, "met": value <= most} for text, value, most in wanted]
