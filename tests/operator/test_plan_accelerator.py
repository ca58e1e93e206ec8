"""AcceleratorUsed: what is reserved and idle is said, from what engines say of themselves."""

from __future__ import annotations

from typing import Any

from operatorlab.facts import engine, model, pod, settled

from topmast_operator.api.conditions import render
from topmast_operator.api.facts import Device, Facts, PodFacts
from topmast_operator.api.resource import Model
from topmast_operator.plan.accelerator import accelerator_used
from topmast_operator.plan.events import events_of
from topmast_operator.plan.revision import revision_of
from topmast_operator.plan.weights import measured_weights
from topmast_operator.watch.state import parse_state

ONE: dict[str, Any] = {"resources": {"accelerator": {"count": 1}}}
CPU = Device("cpu", "AMD EPYC 9654", 0)
GPU = Device("cuda", "NVIDIA H200", 1)


def saying(of: Model, number: int, device: Device | None) -> PodFacts:
    return pod(of, number, engine=engine(device=device))


def test_a_reserved_accelerator_that_computes_nothing_is_false_with_a_remedy() -> None:
    of = model(**ONE)
    found = accelerator_used(of, [saying(of, 0, CPU)])
    assert found is not None and (found.type, found.status, found.reason) == (
        "AcceleratorUsed",
        False,
        "ReservedUnused",
    )
    assert found.message.startswith("1 nvidia.com/gpu is reserved and the engine computes on CPUs (AMD EPYC 9654): ")
    assert "remove spec.resources.accelerator" in found.message
    four = model(resources={"accelerator": {"count": 4}})
    found = accelerator_used(four, [saying(four, 0, CPU)])
    assert found is not None and found.message.startswith("4 nvidia.com/gpu are reserved")


def test_one_engine_on_cpus_is_enough_to_be_false() -> None:
    of = model(**ONE)
    found = accelerator_used(of, [saying(of, 0, GPU), saying(of, 1, CPU), saying(of, 2, None)])
    assert found is not None and found.status is False


def test_fewer_devices_than_reserved_are_told_with_both_numbers() -> None:
    of = model(resources={"accelerator": {"count": 4}})
    found = accelerator_used(of, [saying(of, 0, Device("cuda", "NVIDIA H200", 2))])
    assert found is not None and (found.status, found.reason) == (False, "PartlyUsed")
    assert "4 nvidia.com/gpu are reserved and an engine computes on 2" in found.message


def test_a_used_accelerator_is_true() -> None:
    of = model(**ONE)
    found = accelerator_used(of, [saying(of, 0, GPU)])
    assert found is not None and (found.status, found.reason) == (True, "Used")
    assert "1 (NVIDIA H200)" in found.message


def test_a_model_without_an_accelerator_has_no_such_condition() -> None:
    of = model()
    assert accelerator_used(of, [saying(of, 0, CPU)]) is None


def test_it_is_unknown_until_an_engine_has_said() -> None:
    of = model(**ONE)
    for pods in ([], [pod(of)], [saying(of, 0, None)], [pod(of, 0, engine=engine(device=CPU), deleting=True)]):
        found = accelerator_used(of, pods)
        assert found is not None and (found.status, found.reason) == (None, "NotKnownYet")


def test_a_restart_or_a_sleep_forgets_nothing_and_a_new_revision_does() -> None:
    """Else every wake would be another Event about the same reservation."""
    of = model(**ONE)
    told = accelerator_used(of, [saying(of, 0, CPU)])
    assert told is not None
    status = {"revision": revision_of(of), "conditions": render([told], (), 1, 0.0)}
    assert accelerator_used(model(status=status, **ONE), []) == told
    changed = accelerator_used(model(status=status, engine={"maxNumSeqs": 4}, **ONE), [])
    assert changed is not None and changed.status is None


def test_an_unused_reservation_is_an_event_once() -> None:
    of = model(**ONE)
    unknown, false = accelerator_used(of, []), accelerator_used(of, [saying(of, 0, CPU)])
    assert unknown and false
    status = settled(of, 1).model.status
    before, after = ({**status, "conditions": render([item], (), 1, 0.0)} for item in (unknown, false))
    (event,) = events_of(before, after)
    assert event.warning and event.reason == "ReservedUnused" and event.message == false.message
    assert events_of(after, after) == () and events_of(after, before) == ()


def test_the_device_is_read_from_the_engines_state() -> None:
    said = {"phase": "ready", "device": {"kind": "cuda", "name": "NVIDIA H200", "count": 2}}
    assert parse_state(said).device == Device("cuda", "NVIDIA H200", 2)
    assert parse_state({"phase": "loading", "device": None}).device is None
    assert parse_state({"phase": "ready"}).device is None, "an engine of an older version"
    assert parse_state({"phase": "ready", "device": {"kind": "cpu"}}).device == Device("cpu", "", 0)


def test_weights_are_measured_once_and_forgotten_with_their_source() -> None:
    facts = settled(model(), 1)
    assert measured_weights(facts) == {}
    loaded = pod(facts.model, engine=engine(bytes_total=5 * 2**30))
    told = measured_weights(settled_with(facts.model, loaded))
    assert told == {"source": facts.model.source, "weightsBytes": 5 * 2**30}
    assert measured_weights(settled_with(model(status={"model": told}))) == told
    other = model(status={"model": told}, model={"source": "image:///another.gguf"})
    assert measured_weights(settled_with(other)) == {}


def settled_with(of: Model, *pods: PodFacts) -> Facts:
    return Facts(of, 0.0, pods=pods)
