"""What a load is made of: ready pods in replica units, the gateways' queue, and starts that nobody should wait for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from operatorlab.facts import NOW, engine, model, plan, pod, revision

from topmast_operator.api.facts import Facts, PodFacts, Queue, Termination
from topmast_operator.api.resource import Model
from topmast_operator.plan import autoscale, load
from topmast_operator.plan.load import Load, measure
from topmast_operator.watch import engines

SCALED = model(autoscaling={"maxReplicas": 8})
CRASHED = Termination(11, "Error", '{"code": "EngineDied", "message": "The engine died."}')


def facts(*pods: PodFacts, of: Model = SCALED, queue: Queue | None = None) -> Facts:
    return Facts(of, NOW, pods=pods, queue=queue)


def test_load_is_summed_over_ready_pods_in_replica_units() -> None:
    busy = engine(
        offered_input_tokens_per_s=500.0, output_tokens_per_s=50.0, waiting_prompt_tokens=2000, kv_tokens_used=250
    )
    pods = [
        pod(SCALED, 1, engine=busy),
        pod(SCALED, 2, engine=busy),
        pod(SCALED, 3, engine=engine(age_s=60.0)),
        pod(SCALED, 4, ready=False),
        pod(SCALED, 5, ready=False, scheduled=False),
        pod(SCALED, 6, deleting=True, engine=busy),
        pod(SCALED, 7, ready=False, phase="Failed"),
    ]
    assert measure(facts(*pods)) == Load(work=2.0, kv=0.5, backlog_s=4.0, ready=3, starting=1, stuck=1, unknown=1)


def test_the_queue_is_weighed_by_what_a_replica_can_do() -> None:
    """1000 tokens of prompts or 100 of answers are one second of one replica."""
    queue = Queue(
        requests=12,
        prompt_tokens=6000,
        output_tokens=400,
        prompt_growth_per_s=500.0,
        output_growth_per_s=150.0,
        prompt_drained=20_000,
        output_drained=2000,
    )
    found = measure(facts(pod(SCALED, 1, engine=engine()), pod(SCALED, 2, engine=engine()), queue=queue))
    assert found == Load(growth=2.0, drained=2.0, backlog_s=10.0, waiting=12, ready=2)


def test_unequal_replicas_are_weighed_by_their_mean() -> None:
    fast = engine(prefill_tokens_per_s=3000.0, decode_tokens_per_s=300.0)
    queue = Queue(requests=1, prompt_tokens=2000, output_tokens=200)
    pods = pod(SCALED, 1, engine=engine()), pod(SCALED, 2, engine=fast)
    assert measure(facts(*pods, queue=queue)).backlog_s == 2.0


@pytest.mark.parametrize(
    "pods",
    [
        (),
        (pod(SCALED, 1, ready=False),),
        (pod(SCALED, 1, engine=None),),
        (pod(SCALED, 1, engine=engine(prefill_tokens_per_s=0.0)),),
    ],
)
def test_without_a_replica_that_tells_what_it_can_do_a_queue_moves_nothing(pods: tuple[PodFacts, ...]) -> None:
    queue = Queue(requests=5000, prompt_tokens=10**7, output_tokens=10**6, prompt_growth_per_s=10**6)
    found = measure(facts(*pods, queue=queue))
    assert found.waiting == 5000 and found.blind and found.backlog_s == found.growth == 0
    assert SCALED.autoscaling
    for desired in (1, 3, 8):
        memory = autoscale.ScaleMemory(desired, low_since=NOW - 10_000)
        assert autoscale.decide(SCALED.autoscaling, memory, found, NOW).desired == desired


def test_a_queue_that_may_be_longer_than_what_is_known_takes_nothing_away() -> None:
    found = measure(
        facts(pod(SCALED, 1, engine=engine()), queue=Queue(unknown="1 of 2 gateways tells no queue (g: x)"))
    )
    assert found.blind == "1 of 2 gateways tells no queue (g: x)"


def test_the_rates_cover_the_time_over_which_they_are_measured() -> None:
    assert load.RATES_COVER_S == engines.WINDOW_S


def stuck(of: Model = SCALED, **more: Any) -> bool:
    """Whether such a pod, not ready, is one that nobody should wait for."""
    found = measure(facts(pod(of, 1, **{"ready": False, **more}), of=of))
    assert found.stuck + found.starting == 1
    return bool(found.stuck)


@pytest.mark.parametrize(
    "trouble",
    [
        {"restarts": 7, "waiting_reason": "CrashLoopBackOff", "last_terminated": CRASHED},
        {"waiting_reason": "ImagePullBackOff", "started_unix_s": None},
        {"waiting_reason": "CreateContainerConfigError", "started_unix_s": None},
        {"stuck_message": "MountVolume.SetUp failed", "started_unix_s": None},
        {"scheduled": False, "unschedulable_message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."},
        {"scheduled": None, "gates": ("quota.example.org/wait",), "node": None},
    ],
)
def test_a_pod_with_something_wrong_is_no_start_to_wait_for(trouble: dict[str, Any]) -> None:
    assert stuck(**trouble)


def test_a_start_is_waited_for_as_long_as_starts_take_and_some_time_more() -> None:
    def since(seconds: float) -> dict[str, Any]:
        return {"created_unix_s": NOW - 10_000, "scheduled_unix_s": NOW - seconds, "started_unix_s": NOW - 1}

    usual = replace(SCALED, status={"start": {"p90Seconds": 200}})
    quick = replace(SCALED, status={"start": {"p90Seconds": 4}})
    assert not stuck(usual, **since(590)) and stuck(usual, **since(610))
    assert not stuck(quick, **since(290)) and stuck(quick, **since(310))
    assert not stuck(SCALED, **since(590)) and stuck(SCALED, **since(610))  # spec.rollout.progressDeadlineSeconds


def test_bounds_of_what_is_trusted() -> None:
    def one(**more: Any) -> Load:
        return measure(facts(pod(SCALED, 1, engine=engine(**more))))

    assert one(age_s=15.0).unknown == 0 and one(age_s=15.1).unknown == 1
    assert one(decode_tokens_per_s=0.0).unknown == 1 and one(decode_tokens_per_s=0.1).unknown == 0
    assert one(kv_tokens=0, kv_tokens_used=5).kv == 0 and one(kv_tokens=1, kv_tokens_used=5).kv == 5
    assert not stuck(created_unix_s=NOW - 600, scheduled_unix_s=None, started_unix_s=None)
    assert stuck(created_unix_s=NOW - 601, scheduled_unix_s=None, started_unix_s=None)
    usual = replace(SCALED, status={"start": {"p90Seconds": 200}})
    for of, longest_s in ((usual, 600), (replace(SCALED, status={"start": {"p90Seconds": 1}}), 300)):
        assert not stuck(of, scheduled_unix_s=NOW - longest_s, started_unix_s=None)
        assert stuck(of, scheduled_unix_s=NOW - longest_s - 1, started_unix_s=None)
    assert Load(work=1.0, drained=3.0, growth=0.5).arriving == 0.5 and Load(work=3.0, drained=1.0).arriving == 2.0


def test_a_replica_that_crashes_again_and_again_does_not_keep_five_others() -> None:
    """Six replicas without work, one of which never starts: it goes first, and the others follow."""
    of, desired, now, victims = SCALED, 6, NOW, []
    idle = [pod(of, number, engine=engine()) for number in range(5)]
    crashing = pod(
        of, 9, ready=False, restarts=7, waiting_reason="CrashLoopBackOff", last_terminated=CRASHED, ready_unix_s=None
    )
    pods = [*idle, crashing]
    status: dict[str, Any] = {"observedGeneration": 1, "autoscaling": {"desiredReplicas": desired}}
    for _ in range(200):
        made = plan(Facts(replace(of, status=status), now, revisions=(revision(of, desired),), pods=tuple(pods)))
        status, now = dict(made.status), now + 30
        if made.plan.drain:
            victims += made.plan.drain
            pods = [item for item in pods if item.name not in made.plan.drain]
            desired -= 1
    assert victims[0] == crashing.name and desired == 1
