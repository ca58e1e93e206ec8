"""Models that sleep, with a real API server: the call of a gateway, the wake, the idle time, restarts in between."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from operatorlab.playkubelet import Fate
from operatorlab.told import telling
from operatorlab.world import Object, World

from pod_network import address

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def flags(token_file: Path) -> tuple[str, ...]:
    return ("--resync-s", "1", "--shared-token-file", str(token_file))


def phase(world: World, name: str) -> str:
    return str(world.status(name).get("phase", ""))


def test_a_call_wakes_a_model_and_without_requests_it_sleeps_again(world: World, flags: tuple[str, ...]) -> None:
    path = f"{world.namespace}/zero"
    with telling(address(3)) as engine, world.operator(*flags) as operator:
        world.kubelet.fates["zero"] = Fate(ip=engine.ip, ready=False)  # it loads until that was seen
        world.apply(world.model("zero", replicas=0, sleep={"idleSeconds": 6}))
        asleep = world.until_ready("zero", 0)
        assert asleep["status"]["phase"] == "Sleeping" and not world.list("pods", "zero")
        assert world.condition("zero", "Ready")["reason"] == "Sleeping", "healthy for Argo CD and Flux"

        engine.phase = "loading"
        called = time.monotonic()
        status, answer = operator.wake(path, TOKEN)
        assert (status, answer["eta_s"]) == (202, None), "no wake was measured yet, and nothing is made up"
        world.until("percent and seconds", lambda: phase(world, "zero") == "Waking: loading 60% (5 s left)")
        engine.phase = "ready"
        world.kubelet.fates["zero"] = Fate(ip=engine.ip)
        awake = world.until_ready("zero", 1)
        took_s = time.monotonic() - called
        assert awake["spec"]["replicas"] == 0, "the user's spec is the user's"
        assert 1 <= awake["status"]["start"]["p90Seconds"] <= took_s + 2, "counted in whole seconds"

        def asked_and_awake() -> bool:
            engine.requests += 1
            return len(world.pods("zero")) == 1

        world.remain("awake while somebody asks", asked_and_awake, 8)
        engine.running = 1  # one long answer, for longer than the idle time
        world.remain("awake while it answers", lambda: len(world.pods("zero")) == 1, 8)
        engine.running = 0
        world.until("it sleeps", lambda: phase(world, "zero") == "Sleeping")
        assert not world.pods("zero")
        world.until_told("zero", "Sleeping")
        status, answer = operator.wake(path, TOKEN)
        assert status == 202 and answer["eta_s"] == awake["status"]["start"]["p90Seconds"]


def test_a_wake_outlives_the_operator_that_took_the_call(world: World, flags: tuple[str, ...]) -> None:
    world.kubelet.fates["robust"] = Fate(start_s=2.0)
    with world.operator(*flags) as first:
        world.apply(world.model("robust", replicas=0, sleep={}))
        world.until_ready("robust", 0)
        # Nobody acts any more when the call comes: the next operator finds it in the object.
        patch = '{"spec":{"holderIdentity":"somebody-who-died","leaseDurationSeconds":3}}'
        lease = ("lease", "topmast-operator", "-n", "topmast-system", "--type=merge", "-p", patch)
        with world.operator(*flags) as standby:
            assert standby.metric("topmast_operator_lease_held") == 0
            world.kubectl("patch", *lease)
            first.popen.wait(timeout=60)
            assert standby.wake(f"{world.namespace}/robust", TOKEN)[0] == 202, "a standby takes calls, too"
            standby.stop(signal.SIGKILL)
    with world.operator(*flags):
        world.until_ready("robust", 1)
        uids = [pod["metadata"]["uid"] for pod in world.pods("robust")]
    with world.operator(*flags) as third:
        world.until("two passes", lambda: third.metric('topmast_operator_reconciles_total{result="done"}') >= 2)
        assert [pod["metadata"]["uid"] for pod in world.pods("robust")] == uids, "awake is a fact, not a memory"


def test_who_may_call_and_whom(world: World, flags: tuple[str, ...], token_file: Path) -> None:
    def said(answer: tuple[int, Object]) -> tuple[int, str]:
        return answer[0], answer[1].get("code", "")

    world.apply(world.model("plain"))
    world.apply(world.model("night", suspend=True, sleep={}))
    with world.operator(*flags) as operator:
        world.until_ready("plain", 1)
        mine = f"{world.namespace}/plain"
        for wrong in ("", "Bearer", "other", TOKEN[:-1]):
            assert said(operator.wake(mine, wrong)) == (401, "")
        assert said(operator.wake(mine, TOKEN)) == (409, "never_sleeps")
        assert said(operator.wake(f"{world.namespace}/night", TOKEN)) == (409, "suspended")
        for nowhere in ("nosuch", "UPPER", "a%2f..%2fplain", "x" * 80):
            assert said(operator.wake(f"{world.namespace}/{nowhere}", TOKEN))[0] == 404
        token_file.write_text("rotated")
        assert said(operator.wake(mine, TOKEN))[0] == 401 and said(operator.wake(mine, "rotated"))[0] == 409
        token_file.write_text("")
        assert said(operator.wake(mine, ""))[0] == 401, "an empty file opens nothing"
        assert world.status("night").get("wake") is None
    with world.operator() as closed:
        assert closed.get("/wake/a/b")[0] == 404
