"""`helm install --wait` with real Helm: it gives up at once on what only a human can mend, and waits for what heals."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from operatorlab.playkubelet import Fate
from operatorlab.recordings import pod_of
from operatorlab.world import Process, World

AT_ONCE_S = 60.0  # of a busy machine; Helm would wait five times as long
WAITS_S = 8.0


class Release:
    """A chart with one model in it."""

    def __init__(self, world: World, folder: Path, model: str) -> None:
        templates = folder / "templates"
        templates.mkdir()
        (folder / "Chart.yaml").write_text("apiVersion: v2\nname: models\nversion: 1.0.0\n")
        (templates / "model.yaml").write_text(json.dumps(world.model(model)))
        self._words = [str(world.cluster.binaries["helm"]), "install", model, str(folder), "-n", world.namespace]
        self._environment = {**os.environ, "KUBECONFIG": str(world.cluster.kubeconfig)}

    def install(self) -> subprocess.Popen[str]:
        words = [*self._words, "--wait", f"--timeout={5 * AT_ONCE_S:.0f}s"]
        return subprocess.Popen(
            words, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


def told_of(fault: str) -> Fate:
    """The kubelet says of a model's pods what a real one said."""
    waiting = pod_of(fault)
    return Fate(waiting=(waiting.waiting_reason, waiting.waiting_message))


def test_an_image_that_is_not_there_ends_the_wait_at_once(world: World, running: Process, tmp_path: Path) -> None:
    world.kubelet.fates["typo"] = told_of("image-not-found")
    helm = Release(world, tmp_path, "typo").install()
    try:
        said, _ = helm.communicate(timeout=AT_ONCE_S)
    finally:
        helm.kill()
    assert helm.returncode == 1, said
    assert "Failed" in said and "typo: not found" in said, "Helm shows what Stalled says"


def test_a_registry_that_does_not_answer_is_waited_for(world: World, running: Process, tmp_path: Path) -> None:
    world.kubelet.fates["away"] = told_of("registry-refuses")
    helm = Release(world, tmp_path, "away").install()
    try:
        world.until("the refusal is told", lambda: "refused" in world.condition("away", "Ready")["message"])
        time.sleep(WAITS_S)
        assert helm.poll() is None, helm.communicate()[0]
        world.kubelet.fates["away"] = Fate()  # the registry answers again
        said, _ = helm.communicate(timeout=AT_ONCE_S)
    finally:
        helm.kill()
    assert helm.returncode == 0, said
    assert world.status("away")["ready"] == "1/1"
