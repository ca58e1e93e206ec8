"""The API server goes away and comes back. Last by name: the other controllers need a while to recover from it."""

from __future__ import annotations

import time

from operatorlab.world import World


def test_an_outage_of_the_api_server_is_survived(world: World) -> None:
    with world.operator() as process:
        world.apply(world.model("steady"))
        world.until_ready("steady", 1)
        before = {pod["metadata"]["uid"] for pod in world.list("pods", "steady")}
        process.may_be_refused = True
        world.cluster.stop_apiserver()
        time.sleep(13)  # longer than the Lease is good for
        assert process.popen.poll() is None
        assert process.get("/healthz")[0] == 200, "a restart would not bring the API server back"
        world.cluster.start_apiserver()
        world.until("the API server answers", lambda: "ok" in world.kubectl("get", "--raw", "/readyz", check=False))
        world.kubectl("scale", "llm", "steady", "--replicas=2")
        # Only the operator's own part is waited for: the other controllers come back in their own time.
        world.until(
            "it acts again", lambda: [item["spec"]["replicas"] for item in world.list("deploy", "steady")] == [2]
        )
        assert before <= {pod["metadata"]["uid"] for pod in world.list("pods", "steady")}
        assert process.popen.poll() is None
