"""Whether the wanted revision is given up, what its Deployment carries of it, and when that ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operatorlab.facts import NOW, model, pod, revision

from topmast_operator.api.facts import Facts, PodFacts, RevisionFacts, Room, Termination
from topmast_operator.api.times import to_text
from topmast_operator.plan.check import CheckResult
from topmast_operator.plan.failure import ROOM_TAKEN_S, TRY_AGAIN_S, Failure, of_target, records
from topmast_operator.plan.findings import Finding, Kind, Severity
from topmast_operator.plan.revision import revision_of

BEFORE, OF = model(engine={"maxModelLen": 512}), model(engine={"maxModelLen": 1024})
OLD, NEW = revision_of(BEFORE), revision_of(OF)
CRASH = Termination(1, "Error", "Segfault")
CORRUPT = Termination(10, "Error", '{"code": "ModelCorrupt", "message": "cut off"}')
NOT_CHECKED = CheckResult()


def facts(*pods: PodFacts, old: bool = True, **more: Any) -> Facts:
    """The new revision has a Deployment, and the old one served."""
    others = (revision(BEFORE, 1),) if old else ()
    return Facts(OF, NOW, (*others, revision(OF, 1, proven=False)), pods, **more)


def failure(of: Facts, wanted: int = 1, checked: CheckResult = NOT_CHECKED) -> Failure | None:
    target = next((item for item in of.revisions if item.revision == NEW), None)
    return of_target(of, target, NEW, wanted, checked)


def crashed(times: int, **more: Any) -> PodFacts:
    plain = {"restarts": times, "last_terminated": CRASH, "terminated": None}
    return pod(OF, **{"ready": False, **plain, **more})


def serving() -> PodFacts:
    return pod(BEFORE)


def test_three_crashes_in_room_that_another_could_have_are_enough() -> None:
    assert failure(facts(serving(), crashed(2))) is None
    found = failure(facts(serving(), crashed(3)))
    assert found is not None and found.finding.reason == "EngineCrash" and found.since_unix_s == NOW
    assert failure(facts(serving(), crashed(3, node=None))) is None, "it holds nobody's room"
    assert failure(facts(crashed(3), old=False)) is None, "there is no other: it is tried on"
    assert failure(facts(serving(), crashed(3), pod(OF, 1))) is None, "one of it serves"
    proven = replace(facts(serving(), crashed(3)), revisions=(revision(BEFORE, 1), revision(OF, 1)))
    assert failure(proven) is None, "it served once"
    unproven = replace(
        facts(serving(), crashed(3)),
        revisions=(replace(revision(BEFORE, 1), proven=False), revision(OF, 1, proven=False)),
    )
    assert failure(unproven) is None, "nothing was ever proven"


def test_what_no_restart_heals_is_given_up_without_another_revision_too() -> None:
    bad = {"last_terminated": CORRUPT}
    assert failure(facts(crashed(3, **bad), old=False)) is not None
    assert failure(facts(crashed(3, node=None, **bad), old=False)) is not None
    assert failure(facts(crashed(2, **bad), old=False)) is None


def test_while_nobody_answers_two_crashes_are_enough() -> None:
    assert failure(facts(crashed(1))) is None
    found = failure(facts(crashed(2)))
    assert found is not None and found.finding.severity is Severity.FINAL
    assert failure(facts(crashed(2), old=False)) is None
    assert failure(facts(crashed(2), serving())) is None


def test_without_a_deployment_nothing_has_failed() -> None:
    assert of_target(facts(serving()), None, NEW, 1, NOT_CHECKED) is None


SWAPPING = {"rollout": {"revision": NEW, "phase": "Swapping", "startedAt": to_text(NOW - 60)}}
ROOM = Room(0, 2, 1, 0, holders=("a/one", "a/two", "a/three", "a/four"))


def waits(age_s: float = ROOM_TAKEN_S, **more: Any) -> PodFacts:
    plain = {"node": None, "scheduled": False, "created_unix_s": NOW - age_s}
    said = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: none."
    return pod(OF, **{"ready": False, "unschedulable_message": said, **plain, **more})


def taken(*pods: PodFacts, status: Any = None, wanted: int = 1, room: Room | None = ROOM) -> Failure | None:
    return failure(replace(facts(*pods, room=room), model=replace(OF, status=status or SWAPPING)), wanted)


def test_room_that_others_took_is_given_up_after_a_moment() -> None:
    found = taken(waits())
    assert found is not None and found.finding.reason == "RoomTaken" and not found.finding.final
    assert "was taken by a/one, a/two, a/three: 0/1 nodes" in found.finding.message and "600 s" in found.finding.message
    assert taken(waits(ROOM_TAKEN_S - 1)) is None
    unknown = taken(waits(), room=None)
    assert unknown is not None and "was taken: 0/1 nodes" in unknown.finding.message
    assert taken() is None, "nobody waits"


def test_room_is_not_taken_while_something_else_explains_the_wait() -> None:
    for other in ({"phase": "Waiting"}, {"revision": "another"}):
        assert taken(waits(), status={"rollout": {**SWAPPING["rollout"], **other}}) is None
    assert taken(waits(), status={"observedGeneration": 1}) is None
    assert taken(waits(), pod(BEFORE, ready=False, deleting=True)) is None, "the old one has not left yet"
    assert taken(waits(), pod(OF, 1, ready=False)) is None, "one has got its room"
    assert taken(waits(), pod(OF, 1, ready=False), wanted=2) is None
    assert taken(waits(), serving()) is None, "more are there than are wanted: it waits for one to leave"
    assert taken(waits(), serving(), wanted=2) is not None
    assert taken(waits(scheduled=None)) is None, "the scheduler has not spoken"
    lost = pod(BEFORE, ready=False, leaves_by_unix_s=NOW - 60)
    assert taken(waits(), lost) is not None and taken(waits(), pod(BEFORE, ready=False, phase="Failed")) is not None


RECORD = {
    "kind": "crash",
    "reason": "EngineCrash",
    "message": "It crashed.",
    "retry": "",
    "at": to_text(NOW - 100),
    "final": "true",
    "permanent": "false",
}


def recorded(*pods: PodFacts, wanted: int = 1, checked: CheckResult = NOT_CHECKED, **more: str) -> Failure | None:
    target = revision(OF, 0, proven=False, failed={**RECORD, **more})
    of = replace(facts(*pods), revisions=(revision(BEFORE, 1), target))
    return of_target(of, target, NEW, wanted, checked)


def test_a_record_holds_until_it_ends() -> None:
    found = recorded(serving())
    assert found == Failure(Finding(Kind.CRASH, "EngineCrash", "It crashed.", Severity.FINAL), NOW - 100)
    assert recorded(serving(), retry="1") is None, "the user has asked for another try"
    mild = recorded(serving(), final="false", at=to_text(NOW))
    assert mild is not None and mild.finding.severity is Severity.HEALS
    lasting = recorded(serving(), permanent="true")
    assert lasting is not None and lasting.finding.permanent
    old = {name: value for name, value in RECORD.items() if name not in ("at", "permanent", "final")}
    target = revision(OF, 0, proven=False, failed=old)
    kept = of_target(replace(facts(serving()), revisions=(target,)), target, NEW, 1, NOT_CHECKED)
    assert kept is not None and (kept.since_unix_s, kept.finding.permanent, kept.finding.final) == (0.0, True, True)


def passed(at: float) -> CheckResult:
    return CheckResult(True, None, "n1", at)


def test_what_a_check_can_find_out_ends_when_a_later_one_passes() -> None:
    image = {"kind": "image"}
    assert recorded(serving(), checked=passed(NOW - 100), **image) is None
    assert recorded(serving(), checked=passed(NOW - 101), **image) is not None, "an earlier check"
    assert recorded(serving(), checked=replace(passed(NOW), passed=False), **image) is not None
    assert recorded(checked=passed(NOW), **image) is not None, "while nobody serves the old revision comes first"
    assert recorded(pod(BEFORE, draining=True), checked=passed(NOW), **image) is not None
    assert recorded(serving(), wanted=2, checked=passed(NOW), **image) is not None
    assert recorded(pod(OF), checked=passed(NOW), **image) is not None, "its own pods do not count"
    assert recorded(serving(), checked=passed(NOW), permanent="true", **image) is not None
    assert recorded(serving(), checked=passed(NOW)) is not None, "a check finds no crash"


def test_room_that_was_taken_is_tried_again_after_a_while() -> None:
    capacity = {"kind": "capacity", "final": "false"}
    assert recorded(serving(), at=to_text(NOW - TRY_AGAIN_S), **capacity) is None
    assert recorded(serving(), at=to_text(NOW - TRY_AGAIN_S + 1), **capacity) is not None
    assert recorded(serving(), at=to_text(NOW - TRY_AGAIN_S), kind="capacity") is not None, "that is final"


def test_the_records_of_other_revisions_stay() -> None:
    before: RevisionFacts = replace(revision(BEFORE, 0), failed=RECORD)
    clean = revision(model(engine={"maxModelLen": 256}), 0)
    of = replace(facts(), model=replace(OF, retry="2"), revisions=(before, clean, revision(OF, 1, failed=RECORD)))
    assert records(of, NEW, None) == {OLD: RECORD}
    found = Failure(Finding(Kind.IMAGE, "ImagePull", "None.", permanent=True), NOW)
    assert records(of, NEW, found) == {
        OLD: RECORD,
        NEW: {
            "kind": "image",
            "reason": "ImagePull",
            "message": "None.",
            "retry": "2",
            "at": to_text(NOW),
            "final": "false",
            "permanent": "true",
        },
    }
    final = records(of, NEW, replace(found, finding=Finding(Kind.IMAGE, "x", ".", Severity.FINAL)))[NEW]
    assert (final["final"], final["permanent"]) == ("true", "false")
