"""Each way to fail has a sentence of its own, with what to do; and the conditions keep the rules of kstatus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operatorlab.facts import NOW, Made, condition, engine, model, pod, replicas, revision, settled
from operatorlab.facts import plan as make

from topmast_operator.api.facts import EngineState, Facts, PodFacts, Termination
from topmast_operator.api.resource import Model
from topmast_operator.plan.findings.engine import _last_line
from topmast_operator.watch.state import parse_state, tokens_so_far

LOAD_ERROR = Termination(
    10, "Error", 'loading\n{"code": "ModelNotFound", "message": "/models/m.gguf does not exist. Correct the path."}\n'
)
KILLED = Termination(11, "Error", '{"code": "EngineDied", "message": "The engine died of signal 9."}')


def starting(of: Model, **more: Any) -> Facts:
    """One pod that is not ready, of a new model."""
    return Facts(of, NOW, (revision(of, of.replicas, proven=False),), (pod(of, ready=False, **more),))


def ready_message(made: Made) -> str:
    found = condition(made, "Ready")
    assert found["status"] == "False"
    return str(found["message"])


def test_an_image_that_cannot_be_pulled() -> None:
    made = make(starting(model(), waiting_reason="ImagePullBackOff", waiting_message='pulling "x:1": not found'))
    assert 'cannot be pulled: pulling "x:1": not found' in ready_message(made)
    assert "spec.engine.image" in ready_message(made)
    assert condition(made, "Stalled")["status"] == "True", "no registry says that in passing"
    assert "goes on by itself" in condition(made, "Stalled")["message"] and replicas(made) == {}


@pytest.mark.parametrize(("waited_s", "stalled"), [(20, "False"), (89, "False"), (90, "True")])
def test_a_registry_that_does_not_answer_is_waited_for_a_while(waited_s: int, stalled: str) -> None:
    said = "dial tcp 10.0.0.1:443: connect: connection refused"
    facts = starting(model(), waiting_reason="ErrImagePull", waiting_message=said, scheduled_unix_s=NOW - waited_s)
    assert condition(make(facts), "Stalled")["status"] == stalled
    assert make(facts).status["phase"] == ("Stalled" if stalled == "True" else "ImagePull")


def test_an_invalid_image_name_stalls_at_once() -> None:
    made = make(starting(model(), waiting_reason="InvalidImageName", waiting_message="couldn't parse ':::'"))
    assert condition(made, "Stalled")["status"] == "True"


def test_no_room_on_any_node_is_told_with_the_schedulers_numbers() -> None:
    said = "0/3 nodes are available: 3 Insufficient cpu."
    made = make(starting(model(replicas=2), scheduled=False, node=None, unschedulable_message=said))
    found = condition(made, "CapacityAvailable")
    assert found["status"] == "False"
    assert "1 of 2 replicas find no node" in found["message"] and "0/3 nodes" in found["message"]
    assert made.status["phase"] == "Pending"
    assert [event.reason for event in made.plan.events if event.warning] == ["Unschedulable"]


def test_a_missing_claim_is_the_models_problem() -> None:
    said = '0/1 nodes are available: persistentvolumeclaim "weights" not found.'
    made = make(starting(model(), scheduled=False, node=None, unschedulable_message=said))
    found = condition(made, "ModelAvailable")
    assert (found["status"], found["reason"]) == ("False", "ClaimNotFound")
    assert '"weights" not found' in found["message"]


@pytest.mark.parametrize(("restarts", "given_up"), [(0, False), (1, False), (2, True), (5, True)])
def test_the_same_load_error_three_times_is_enough(restarts: int, given_up: bool) -> None:
    last = LOAD_ERROR if restarts else None
    made = make(starting(model(), restarts=restarts, terminated=LOAD_ERROR, last_terminated=last))
    found = condition(made, "ModelAvailable")
    assert (found["status"], found["reason"]) == ("False", "ModelNotFound")
    assert "/models/m.gguf does not exist" in found["message"]
    assert (condition(made, "Stalled")["status"] == "True") is given_up
    assert replicas(made) == ({next(iter(replicas(made))): 0} if given_up else {})


def test_a_load_error_of_one_pod_beside_a_good_one_stops_nothing() -> None:
    facts = settled(model(replicas=2), 2)
    sick = replace(facts.pods[1], ready=False, restarts=4, terminated=LOAD_ERROR, last_terminated=LOAD_ERROR)
    made = make(replace(facts, pods=(facts.pods[0], sick)))
    assert replicas(made) == {}
    assert condition(made, "Stalled")["status"] == "False"
    assert "1 of 2 replicas serve" in ready_message(made)


@pytest.mark.parametrize("ended", [KILLED, Termination(137, "OOMKilled", ""), Termination(1, "Error", "Segfault")])
def test_a_first_revision_that_crashes_three_times_waits_for_a_human_and_is_tried_on(ended: Termination) -> None:
    twice = make(starting(model(), restarts=1, terminated=ended, last_terminated=ended))
    assert condition(twice, "Stalled")["status"] == "False"
    thrice = make(starting(model(), restarts=2, terminated=ended, last_terminated=ended))
    assert condition(thrice, "Stalled")["status"] == "True" and "3 times" in ready_message(thrice)
    assert replicas(thrice) == {}, "the kubelet goes on: what was mended outside starts"


@pytest.mark.parametrize("ended", [KILLED, LOAD_ERROR, Termination(2, "Error", "no such option")])
def test_a_revision_that_served_once_is_never_given_up(ended: Termination) -> None:
    """Its storage was away, or its node: that heals, and nobody has to ask for another try."""
    of = model()
    sick = pod(of, ready=False, restarts=99, terminated=ended, last_terminated=ended)
    made = make(Facts(of, NOW, (revision(of, 1, proven=True),), (sick,)))
    assert replicas(made) == {} and condition(made, "Stalled")["status"] == "False"
    assert condition(made, "Available")["status"] == "False"


def test_out_of_memory_names_the_fields() -> None:
    made = make(starting(model(), restarts=1, last_terminated=Termination(137, "OOMKilled", "")))
    assert "Raise spec.resources.memory" in ready_message(made)


def test_arguments_that_the_engine_refuses() -> None:
    usage = Termination(2, "Error", "usage: topmast serve ...\ntopmast serve: error: unrecognized arguments: --foo")
    made = make(starting(model(), restarts=2, terminated=usage, last_terminated=usage))
    assert "unrecognized arguments: --foo" in condition(made, "Stalled")["message"]
    assert "spec.engine.extraArgs" in condition(made, "Stalled")["message"]


def test_a_termination_message_that_is_no_json_does_no_harm() -> None:
    odd = Termination(1, "Error", '{"code": 7}\n[1]\nSegmentation fault {')
    assert "Segmentation fault" in ready_message(make(starting(model(), restarts=1, last_terminated=odd)))


def test_a_healed_restart_is_still_told() -> None:
    facts = settled(model(), 1)
    healed = replace(facts.pods[0], restarts=1, last_terminated=KILLED)
    made = make(replace(facts, pods=(healed,)))
    assert condition(made, "Ready")["status"] == "True"
    assert made.status["pods"][0]["lastEndReason"] == "EngineDied"
    assert [(event.reason, event.warning) for event in made.plan.events] == [("EngineDied", True)]


def test_a_service_of_somebody_else_is_not_taken_over() -> None:
    made = make(replace(settled(model(), 1), foreign=("Service",), service={"metadata": {}, "spec": {}}))
    assert made.changes.grow == ()
    found = condition(made, "Stalled")
    assert (found["status"], found["reason"]) == ("True", "NameTaken")
    assert "A Service named m exists in namespace ns" in found["message"]


def test_a_quota_that_refuses_pods_is_told() -> None:
    of = model()
    facts = Facts(of, NOW, (revision(of, 1, proven=False, replica_failure='pods "m" is forbidden: exceeded quota'),))
    assert "exceeded quota" in ready_message(make(facts))
    assert condition(make(facts), "CapacityAvailable")["status"] == "False"


def test_progress_of_a_load_is_told_with_percent_and_time_left() -> None:
    loading = engine(phase="loading", bytes_done=471, bytes_total=1000, eta_s=12.0)
    made = make(starting(model(), engine=loading))
    assert made.status["phase"] == "Loading 45% (10 s left)"
    assert made.status["pods"][0]["percent"] == 45


def test_the_phase_of_a_first_start_is_not_a_rollout() -> None:
    assert make(starting(model())).status["phase"] == "Starting"
    assert make(starting(model(), engine=engine(phase="warming"))).status["phase"] == "Warming up"


def test_an_engine_that_has_only_begun_says_null() -> None:
    """As the server answers before the model's header is read."""
    begun = {
        "phase": "starting",
        "model": {"names": ["m"]},
        "load": None,
        "start": None,
        "work": None,
        "capacity": None,
    }
    assert parse_state(begun) == EngineState("starting")
    assert tokens_so_far(begun) == (0, 0)
    partly = {
        "phase": "loading",
        "load": {"bytes_done": 1, "bytes_total": None, "eta_s": None},
        "capacity": {"kv_tokens": None},
    }
    assert parse_state(partly).phase == "loading"


def test_suspended_is_what_was_asked_for() -> None:
    of = model(suspend=True, replicas=3)
    made = make(Facts(of, NOW, (revision(of, 3),), (pod(of, 1), pod(of, 2))))
    assert list(replicas(made).values()) == [0] and len(made.changes.drain) == 2
    assert condition(made, "Ready")["status"] == "False"
    made = make(Facts(of, NOW, (revision(of, 0),)))
    assert (made.status["phase"], condition(made, "Ready")["status"]) == ("Suspended", "True")
    assert condition(made, "Reconciling")["status"] == "False"


def test_scaling_in_announces_the_least_busy_replica() -> None:
    facts = settled(model(replicas=3), 3)
    busy = [replace(item, engine=engine(running=number)) for number, item in zip((4, 0, 7), facts.pods, strict=True)]
    made = make(replace(facts, model=replace(facts.model, replicas=2), pods=tuple(busy)))
    assert made.changes.drain == (facts.pods[1].name,)
    assert list(replicas(made).values()) == [2]


def test_a_pod_that_stays_after_all_is_picked_again() -> None:
    facts = settled(model(replicas=2), 2)
    spared = replace(facts.pods[0], draining=True)
    assert make(replace(facts, pods=(spared, facts.pods[1]))).changes.undrain == (spared.name,)


def test_a_leaving_pod_is_not_called_back_while_the_controller_is_late() -> None:
    """Already one replica by the Deployment, still two pods by the API: the announced one is the one that goes."""
    facts = settled(model(replicas=1), 1)
    leaving = pod(facts.model, 9, draining=True)
    made = make(replace(facts, pods=(*facts.pods, leaving)))
    assert (made.changes.drain, made.changes.undrain) == ((), ())


@given(
    st.lists(
        st.builds(
            dict,
            ready=st.booleans(),
            deleting=st.booleans(),
            draining=st.booleans(),
            scheduled=st.sampled_from([True, False, None]),
            waiting_reason=st.sampled_from(["", "ImagePullBackOff", "CreateContainerConfigError"]),
            terminated=st.sampled_from([None, LOAD_ERROR, KILLED]),
            last_terminated=st.sampled_from([None, LOAD_ERROR, KILLED]),
            restarts=st.integers(0, 4),
        ),
        max_size=4,
    ),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
def test_conditions_are_always_complete_and_never_contradict(
    pods: list[dict[str, Any]], wanted: int, old: bool, scaled: bool
) -> None:
    of = model(replicas=wanted, **({"autoscaling": {"maxReplicas": 3}} if scaled else {}))
    other = model(model={"source": "image:///models/old.gguf"})
    known = (revision(of, wanted, proven=False), *([revision(other, 1)] if old else []))
    facts = Facts(of, NOW, known, tuple(_pod(of, number, more) for number, more in enumerate(pods)))
    made = make(facts)
    conditions = {item["type"]: item for item in made.status["conditions"]}
    kinds = ["Ready", "Available", "Reconciling", "Stalled", "ModelAvailable", "CapacityAvailable", "AutoscalingActive"]
    assert list(conditions) == kinds
    for item in conditions.values():
        assert item["message"].strip() and item["reason"].isidentifier()
    ready, reconciling, stalled = (conditions[kind]["status"] for kind in ("Ready", "Reconciling", "Stalled"))
    assert (reconciling, stalled) != ("True", "True")
    assert not (ready == "True" and stalled == "True")
    assert ready == "True" or reconciling == "True" or stalled == "True", "neither done, nor at work, nor given up"


def _pod(of: Model, number: int, more: dict[str, Any]) -> PodFacts:
    return pod(of, number, **more)


def test_a_pod_that_a_lost_node_keeps_holds_up_nobody() -> None:
    facts = settled(model(replicas=2), 2)
    leaving = pod(facts.model, 9, ready=False, deleting=True, leaves_by_unix_s=NOW - 5)
    made = make(replace(facts, pods=(*facts.pods, leaving)))
    assert condition(made, "Reconciling")["status"] == "True"
    made = make(replace(facts, pods=(*facts.pods, replace(leaving, leaves_by_unix_s=NOW - 60))))
    assert condition(made, "Ready")["status"] == "True"
    assert condition(made, "Reconciling")["status"] == "False"


def test_a_kill_from_outside_names_the_signal() -> None:
    made = make(starting(model(), restarts=1, last_terminated=Termination(137, "Error", "the last line of a log")))
    assert "was killed by signal 9 (once). See kubectl logs" in ready_message(made)


def test_what_is_under_way_is_looked_at_again_and_what_is_settled_is_not() -> None:
    assert make(settled(model(), 1)).plan.again_s is None
    assert make(starting(model())).plan.again_s == 10
    stalled = starting(model(), waiting_reason="InvalidImageName", waiting_message="couldn't parse ':::'")
    assert make(stalled).plan.again_s == 60
    assert make(settled(model(autoscaling={"maxReplicas": 3}), 1)).plan.again_s == 10
    for idle_s, again_s in ((60, 10), (600, 60)):
        assert make(settled(model(sleep={"idleSeconds": idle_s}), 1)).plan.again_s == again_s
    assert make(settled(model(suspend=True), 0)).plan.again_s is None


def test_an_engines_last_line_is_cut_to_what_a_condition_can_hold() -> None:
    assert _last_line("first\n" + "x" * 400 + "\n") == "x" * 300 and _last_line(" \n") == ""
    assert _last_line("it ended. \n") == "it ended"
