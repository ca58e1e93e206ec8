"""When a model sleeps and when it wakes: every step is a function of facts, so a restart between two is harmless."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from operatorlab.facts import NOW, ROLLOUT, Made, condition, engine, model, pod, replicas, revision, settled
from operatorlab.facts import plan as make

from topmast_operator.api.facts import EngineState, Facts, PodFacts
from topmast_operator.api.resource import Model, parse
from topmast_operator.api.times import to_text
from topmast_operator.plan.sleep import eta_s

SLEEPY: dict[str, Any] = {"sleep": {"idleSeconds": 60}}


def told(state: str, ago_s: float = 1000.0, **more: Any) -> dict[str, Any]:
    """A status that an earlier pass left."""
    return {"sleep": {"state": state, "since": to_text(NOW - ago_s), "reason": "for the test"}, **more}


def facts(of: Model, *pods: PodFacts) -> Facts:
    return Facts(of, NOW, (revision(of, len(pods)),), pods)


def idle_for(seconds: float, **more: Any) -> EngineState:
    return engine(**{"idle_s": seconds, "age_s": 0.0, **more})


def state(made: Made) -> str:
    return str(made.status["sleep"]["state"])


def test_without_spec_sleep_nothing_ever_sleeps() -> None:
    of = replace(model(told("Awake")), called_unix_s=NOW)
    made = make(facts(of, pod(of, engine=idle_for(1e6))))
    assert "sleep" not in made.status and not made.changes.drain
    zero = replace(model(replicas=0), called_unix_s=NOW)
    assert make(facts(zero)).status["phase"] == "Scaled to 0" and replicas(make(facts(zero))) == {}


def test_a_new_model_starts_once_and_one_with_replicas_0_begins_asleep() -> None:
    of = model(**SLEEPY)
    made = make(Facts(of, NOW))
    assert state(made) == "Waking" and list(replicas(made).values()) == [1]
    zero = make(Facts(model(replicas=0, **SLEEPY), NOW))
    assert state(zero) == "Asleep" and list(replicas(zero).values()) == [0]
    assert zero.status["phase"] == "Sleeping"


def test_what_serves_when_sleep_is_switched_on_stays() -> None:
    of = model(**SLEEPY)
    made = make(facts(of, pod(of, engine=idle_for(1e6))))
    assert state(made) == "Awake" and not made.changes.drain


def test_a_call_wakes_one_replica_of_a_model_with_replicas_0() -> None:
    of = replace(model(told("Asleep"), replicas=0, **SLEEPY), called_unix_s=NOW - 1)
    made = make(facts(of))
    assert list(replicas(made).values()) == [1]
    assert (made.status["phase"], state(made)) == ("Waking", "Waking")
    assert condition(made, "Ready")["reason"] == "Waking" and condition(made, "Ready")["status"] == "False"
    assert condition(made, "Reconciling")["status"] == "True"


def test_a_wake_brings_all_replicas_that_the_spec_asks_for() -> None:
    of = replace(model(told("Asleep"), replicas=3, **SLEEPY), called_unix_s=NOW)
    assert list(replicas(make(facts(of))).values()) == [3]
    scaled = model(told("Asleep"), autoscaling={"minReplicas": 2, "maxReplicas": 4}, **SLEEPY)
    assert list(replicas(make(facts(replace(scaled, called_unix_s=NOW)))).values()) == [2]


def test_a_call_from_before_it_fell_asleep_wakes_nothing() -> None:
    of = replace(model(told("Asleep", 10), **SLEEPY), called_unix_s=NOW - 20)
    made = make(facts(of))
    assert state(made) == "Asleep" and not replicas(made)


def test_suspend_is_a_persons_word_that_no_call_overrules() -> None:
    of = replace(model(told("Asleep"), suspend=True, **SLEEPY), called_unix_s=NOW)
    made = make(facts(of))
    assert not replicas(made) and made.status["phase"] == "Suspended" and "sleep" not in made.status
    awake = model(told("Awake"), suspend=True, **SLEEPY)
    assert len(make(facts(awake, pod(awake, engine=idle_for(0)))).changes.drain) == 1


def test_an_idle_model_is_drained_and_is_healthy_all_the_while() -> None:
    of = model(told("Awake"), replicas=2, **SLEEPY)
    made = make(facts(of, pod(of, 1, engine=idle_for(61)), pod(of, 2, engine=idle_for(90))))
    assert state(made) == "Asleep" and len(made.changes.drain) == 2 and list(replicas(made).values()) == [0]
    assert condition(made, "Ready")["status"] == "True" and "for 60 s" in condition(made, "Ready")["message"]
    assert made.status["phase"] == "Draining"
    assert [event.reason for event in made.plan.events if event.action == "Observe"] == ["Sleeping"]
    after = make(facts(replace(of, status=made.status)))
    assert (after.status["phase"], condition(after, "Ready")["reason"]) == ("Sleeping", "Sleeping")
    assert condition(after, "Reconciling")["status"] == "False"


def test_it_stays_awake_while_one_replica_of_many_is_asked() -> None:
    of = model(told("Awake"), replicas=2, **SLEEPY)
    assert state(make(facts(of, pod(of, 1, engine=idle_for(900)), pod(of, 2, engine=idle_for(5))))) == "Awake"


def test_it_never_falls_asleep_on_missing_or_stale_numbers() -> None:
    of = model(told("Awake"), replicas=2, **SLEEPY)
    good = pod(of, 1, engine=idle_for(900))
    for unknown in (None, idle_for(900, age_s=60.0), engine(idle_s=None)):
        assert state(make(facts(of, good, pod(of, 2, engine=unknown)))) == "Awake"


def test_it_never_falls_asleep_while_it_starts_however_long_that_takes() -> None:
    of = model(told("Waking", 100_000), **SLEEPY)
    assert state(make(facts(of, pod(of, ready=False, engine=idle_for(900))))) == "Waking"
    crashed = model(told("Awake", 100_000), **SLEEPY)
    assert state(make(facts(crashed, pod(crashed, ready=False)))) == "Awake"


def test_the_idle_time_begins_when_it_is_awake_and_a_call_prolongs_it() -> None:
    of = model(told("Awake", 30), **SLEEPY)
    assert state(make(facts(of, pod(of, engine=idle_for(900))))) == "Awake"
    called = replace(model(told("Awake"), **SLEEPY), called_unix_s=NOW - 30)
    assert state(make(facts(called, pod(called, engine=idle_for(900))))) == "Awake"


def test_every_first_start_is_measured_and_the_measure_outlives_suspension_and_sleep() -> None:
    before = {"start": {"p50Seconds": 4, "p90Seconds": 9, "latestSeconds": [4, 9, 4]}}
    of = model(told("Waking", 17, **before), **SLEEPY)
    started = pod(of, engine=idle_for(0), scheduled_unix_s=NOW - 18, ready_unix_s=NOW - 1)
    made = make(facts(of, started))
    assert state(made) == "Awake"
    start = made.status["start"]
    assert (start["p50Seconds"], start["p90Seconds"], start["latestSeconds"]) == (4, 17, [4, 9, 4, 17])
    again = make(facts(replace(of, status=made.status), started))
    assert again.status["start"] == start, "counted once"
    later = replace(started, name="m-2", scheduled_unix_s=NOW, ready_unix_s=NOW + 5)
    restarted = replace(later, name="m-3", restarts=1, scheduled_unix_s=NOW, ready_unix_s=NOW + 900)
    more = make(facts(replace(of, status=made.status), started, later, restarted))
    assert more.status["start"]["latestSeconds"] == [4, 9, 4, 17, 5], "a restart is no start"
    suspended = make(facts(replace(of, status=made.status, suspend=True)))
    assert suspended.status["start"] == start


def test_a_model_falls_asleep_at_the_end_of_its_idle_time_and_not_before() -> None:
    of = model(told("Awake"), **SLEEPY)

    def then(**more: Any) -> str:
        return state(make(facts(of, pod(of, engine=idle_for(**{"seconds": 60, **more})))))

    assert then() == "Asleep" and then(seconds=59) == "Awake"
    assert then(seconds=50, age_s=10.0) == "Asleep", "nothing came since it was asked"
    assert then(seconds=900, age_s=15.0) == "Asleep" and then(seconds=900, age_s=15.1) == "Awake"
    for since_s, word in ((60, "Asleep"), (59, "Awake")):
        young = model(told("Awake", since_s), **SLEEPY)
        assert state(make(facts(young, pod(young, engine=idle_for(900))))) == word
        called = replace(of, called_unix_s=NOW - since_s)
        assert state(make(facts(called, pod(called, engine=idle_for(900))))) == word


def test_a_call_of_the_same_second_counts() -> None:
    for called_s, word in ((1001, "Asleep"), (1000, "Waking"), (999, "Waking")):
        of = replace(model(told("Asleep"), **SLEEPY), called_unix_s=NOW - called_s)
        assert state(make(facts(of))) == word
    of = model(told("Waking"), **SLEEPY)
    assert state(make(facts(of, pod(of, deleting=True)))) == "Waking", "one that leaves wakes nobody"
    assert state(make(facts(of, pod(of, draining=True)))) == "Waking" and state(make(facts(of, pod(of)))) == "Awake"


def test_what_is_new_begins_as_its_spec_says() -> None:
    scaled = model(replicas=0, autoscaling={"maxReplicas": 2}, **SLEEPY)
    assert state(make(facts(scaled))) == "Waking"
    zero = model(replicas=0, **SLEEPY)
    assert state(make(facts(zero, pod(zero, deleting=True)))) == "Asleep"
    assert state(make(facts(zero, pod(zero)))) == "Awake"


def test_the_estimate_is_what_wakes_have_taken_less_what_has_passed() -> None:
    usual = {"start": {"p50Seconds": 10, "p90Seconds": 20, "latestSeconds": [10, 20]}}
    assert eta_s(told("Asleep", **usual), NOW) == 20
    assert eta_s(told("Waking", 5, **usual), NOW) == 15
    assert eta_s(told("Waking", 50, **usual), NOW) is None, "overdue: nothing is made up"
    assert eta_s(told("Waking", 19, **usual), NOW) == 1 and eta_s(told("Waking", 20, **usual), NOW) is None
    assert eta_s(told("Waking", 5), NOW) is None and eta_s(told("Asleep"), NOW) is None
    assert eta_s(told("Awake"), NOW) is None and eta_s({"readyReplicas": 1}, NOW) == 0
    assert eta_s(told("Awake", readyReplicas=1), NOW) == 0
    assert eta_s({}, NOW) is None


def test_the_phase_of_a_wake_tells_percent_and_seconds() -> None:
    loading = engine(phase="loading", bytes_done=62, bytes_total=100, eta_s=18.0)
    of = model(told("Waking", 3), **SLEEPY)
    assert make(facts(of, pod(of, ready=False, engine=loading))).status["phase"] == "Waking: loading 60% (20 s left)"


def test_a_sleeping_model_with_a_new_spec_is_prepared_but_not_woken() -> None:
    asleep = told("Asleep")
    of = model(asleep, replicas=1, **SLEEPY)
    new = model(asleep, replicas=1, model={"source": "image:///models/new.gguf"}, **SLEEPY)
    made = make(Facts(new, NOW, (revision(of, 0),)))
    assert list(replicas(made).values()) == [0] and state(made) == "Asleep"


def test_removing_spec_sleep_brings_the_replicas_back() -> None:
    of = model(told("Asleep"), replicas=2)
    made = make(facts(of))
    assert list(replicas(made).values()) == [2] and "sleep" not in made.status


def test_the_autoscaler_rests_while_the_model_sleeps() -> None:
    scaling = {"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}
    of = model(told("Asleep", autoscaling={"desiredReplicas": 4, "reason": "busy"}), **SLEEPY, **scaling)
    made = make(facts(of))
    assert made.status["ready"] == "0/0" and condition(made, "AutoscalingActive")["reason"] == "Sleeping"
    assert made.status["autoscaling"]["desiredReplicas"] == 2, "it wakes with the least, not with yesterday's load"


def test_the_mark_of_a_call_is_no_part_of_what_a_pass_writes() -> None:
    of = settled(model(**SLEEPY), 1).model
    body = {
        "metadata": {"name": "m", "namespace": "ns", "uid": "u", "generation": 1},
        "spec": {
            "model": {"source": "image:///models/m.gguf"},
            "engine": {"dtype": "auto"},
            "resources": {},
            "placement": {},
            "replicas": 1,
            "suspend": False,
            "sleep": {"idleSeconds": 60},
            "drain": {"timeoutSeconds": 30},
            "rollout": dict(ROLLOUT),
        },
        "status": {**of.status, "wake": {"calledAt": to_text(NOW)}},
    }
    read = parse(body)
    assert read.status == of.status and read.called_unix_s == NOW


def test_asleep_with_a_revision_that_cannot_start_is_not_called_healthy() -> None:
    of = model(told("Asleep"), **SLEEPY)
    record = {"kind": "model", "reason": "ModelCorrupt", "message": "m.gguf is cut off.", "retry": ""}
    made = make(Facts(of, NOW, (replace(revision(of, 0, proven=False), failed=record),)))
    assert (condition(made, "Ready")["status"], condition(made, "Stalled")["status"]) == ("False", "True")
    assert "cut off" in condition(made, "Ready")["message"]


@given(
    st.sampled_from(["Asleep", "Waking", "Awake"]),
    st.floats(0, 5000),
    st.none() | st.floats(0, 5000),
    st.booleans(),
    st.none() | st.floats(0, 5000),
    st.integers(0, 2),
)
def test_the_same_facts_give_the_same_plan_and_a_settled_one_stays(
    was: str, ago_s: float, called_ago_s: float | None, ready: bool, idle_s: float | None, wanted: int
) -> None:
    """A restart between two passes changes nothing: what a pass decided, the next one reads from its status."""
    called = None if called_ago_s is None else NOW - called_ago_s
    of = replace(model(told(was, ago_s), replicas=wanted, **SLEEPY), called_unix_s=called)
    now = facts(of, pod(of, ready=ready, engine=engine(idle_s=idle_s)))
    first = make(now)
    assert first == make(now)
    second = make(replace(now, model=replace(of, status=first.status)))
    if state(first) != "Waking":
        assert state(second) == state(first), "no flapping between two passes of one moment"
