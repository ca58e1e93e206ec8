"""AccessResolved: who has an alias, and whether fallbacks are there. Nothing else of a model depends on it."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from operatorlab.facts import NOW, condition, model, plan, settled

from topmast_operator.api.conditions import Condition
from topmast_operator.api.facts import Namesake
from topmast_operator.api.resource import Model
from topmast_operator.plan.access import access_resolved, precedence
from topmast_operator.render.changes import Changes

OLD, YOUNG = NOW - 100, NOW
OLD_TEXT, YOUNG_TEXT = "2027-01-15T07:58:20Z", "2027-01-15T08:00:00Z"
THERE, MISSING, UNWATCHED = True, False, None


def of(*aliases: str, fallbacks: tuple[str, ...] = ()) -> Model:
    """The model m of the namespace ns."""
    return model(access={"aliases": list(aliases), "fallbacks": list(fallbacks)})


def told(
    of: Model, *namesakes: tuple[str, str, float], found: dict[tuple[str, str], bool | None] | None = None
) -> Condition:
    said = access_resolved(of, tuple(Namesake(*item) for item in namesakes), found or {})
    assert said is not None
    return said


def test_without_aliases_and_fallbacks_there_is_no_such_condition() -> None:
    for access in (None, {}, {"aliases": [], "fallbacks": []}, {"timeouts": {"holdSeconds": 5}, "retries": 0}):
        assert access_resolved(model(**({} if access is None else {"access": access})), (), {}) is None


# Whoever goes by an alias of m: by which one, its name, and when it was created. Who has the alias in the end.
HELD: list[tuple[str, list[tuple[str, str, float]], str]] = [
    ("alone", [("gpt", "m", OLD)], "m"),
    ("older", [("gpt", "m", OLD), ("gpt", "a", YOUNG)], "m"),
    ("younger", [("gpt", "m", YOUNG), ("gpt", "z", OLD)], "z"),
    ("first by name", [("gpt", "m", OLD), ("gpt", "z", OLD)], "m"),
    ("later by name", [("gpt", "m", OLD), ("gpt", "a", OLD)], "a"),
    ("a digit before a letter", [("gpt", "m", OLD), ("gpt", "m1", OLD), ("gpt", "l9", OLD)], "l9"),
    ("a dash before a digit", [("gpt", "m-2", OLD), ("gpt", "m1", OLD), ("gpt", "m", YOUNG)], "m-2"),
    ("the oldest of three", [("gpt", "m", YOUNG), ("gpt", "a", YOUNG), ("gpt", "z", OLD)], "z"),
    ("a name beats an older alias", [("gpt", "m", OLD), ("gpt", "gpt", YOUNG)], "gpt"),
    ("a name beats an older alias of another", [("gpt", "m", YOUNG), ("gpt", "a", OLD), ("gpt", "gpt", YOUNG)], "gpt"),
    ("another alias is no rival", [("gpt", "m", YOUNG), ("gpt-4", "a", OLD)], "m"),
]


@pytest.mark.parametrize(("namesakes", "holder"), [case[1:] for case in HELD], ids=[case[0] for case in HELD])
def test_one_model_has_an_alias(namesakes: list[tuple[str, str, float]], holder: str) -> None:
    for order in itertools.permutations(namesakes):
        said = told(of("gpt"), *order)
        assert (said.status, said.reason) == ((True, "Resolved") if holder == "m" else (False, "AliasTaken"))
        assert said.status or f"reach the model {holder}, created " in said.message


def test_a_taken_alias_is_told_with_who_has_it_since_when_and_what_to_do() -> None:
    said = told(of("gpt"), ("gpt", "m", YOUNG), ("gpt", "other", OLD))
    assert said.message == (
        f"Callers who ask for gpt reach the model other, created {OLD_TEXT}, which has it in spec.access.aliases too: "
        "the older model has an alias, of equally old ones the first by name. Remove it from one of the two."
    )
    said = told(of("gpt"), ("gpt", "m", OLD), ("gpt", "gpt", YOUNG))
    assert said.message == (
        f"Callers who ask for gpt reach the model gpt, created {YOUNG_TEXT}, whose own name it is: that wins over an "
        "alias. Choose another alias."
    )


def test_aliases_that_one_model_has_are_told_in_one_sentence() -> None:
    rivals = [(alias, "blue", OLD) for alias in ("c", "a", "b")]
    said = told(of("c", "b", "a", "d"), *rivals, ("d", "d", OLD))
    assert said.message.startswith("Callers who ask for a, b or c reach the model blue, created ")
    assert said.message.count("Callers who ask for d reach the model d, ") == 1
    of_both_kinds = told(of("x", "y"), ("x", "x", OLD), ("y", "x", OLD))
    assert "ask for x reach" in of_both_kinds.message and "ask for y reach" in of_both_kinds.message


# The fallbacks of m, what is there of them, and the reason.
FALLEN: list[tuple[str, tuple[str, ...], dict[tuple[str, str], bool | None], str]] = [
    ("there", ("b",), {("ns", "b"): THERE}, "Resolved"),
    ("of another namespace", ("team/b",), {("team", "b"): THERE}, "Resolved"),
    ("not there", ("b",), {("ns", "b"): MISSING}, "FallbackNotFound"),
    ("one of two is not there", ("b", "c"), {("ns", "b"): THERE, ("ns", "c"): MISSING}, "FallbackNotFound"),
    ("there is one of that name elsewhere", ("b",), {("ns", "b"): MISSING, ("team", "b"): THERE}, "FallbackNotFound"),
    ("not watched", ("team/b",), {("team", "b"): UNWATCHED}, "Resolved"),
    ("not watched and not there", ("team/b", "c"), {("team", "b"): None, ("ns", "c"): MISSING}, "FallbackNotFound"),
    ("itself", ("ns/m",), {("ns", "m"): THERE}, "FallbackIsItself"),
    ("its name of another namespace", ("team/m",), {("team", "m"): THERE}, "Resolved"),
    ("another one of its namespace, in full", ("ns/b",), {("ns", "b"): THERE}, "Resolved"),
    ("not there before itself", ("ns/m", "b"), {("ns", "m"): THERE, ("ns", "b"): MISSING}, "FallbackNotFound"),
]


@pytest.mark.parametrize(("fallbacks", "found", "reason"), [case[1:] for case in FALLEN], ids=[c[0] for c in FALLEN])
def test_fallbacks_are_others_that_are_there(
    fallbacks: tuple[str, ...], found: dict[tuple[str, str], bool | None], reason: str
) -> None:
    said = told(of(fallbacks=fallbacks), found=found)
    assert (said.status, said.reason) == (reason == "Resolved", reason)


def test_what_is_wrong_with_fallbacks_is_told_with_what_to_do() -> None:
    missing = {("ns", "b"): MISSING, ("team", "c"): MISSING}
    assert told(of(fallbacks=("b", "team/c")), found=missing).message == (
        "There is no model b or team/c to fall back to: create it, or name another one by its metadata.name in "
        "spec.access.fallbacks."
    )
    assert told(of(fallbacks=("ns/m",)), found={("ns", "m"): THERE}).message == (
        "The fallback ns/m is this model itself: name another one in spec.access.fallbacks, or remove it."
    )


def test_every_problem_is_told_and_the_first_one_is_the_reason() -> None:
    rivals = [("gpt", "m", YOUNG), ("gpt", "other", OLD)]
    said = told(of("gpt", fallbacks=("b", "ns/m")), *rivals, found={("ns", "b"): MISSING, ("ns", "m"): THERE})
    assert said.reason == "AliasTaken"
    places = [said.message.index(words) for words in ("who ask for gpt", "no model b to", "ns/m is this model itself")]
    assert places == sorted(places)


def test_what_is_resolved_is_told_in_a_sentence() -> None:
    assert told(of("gpt")).message == "Callers reach this model as gpt, too."
    assert told(of("c", "b", "a")).message == "Callers reach this model as a, b and c, too."
    there: dict[tuple[str, str], bool | None] = {("ns", "b"): THERE, ("ns", "a"): THERE}
    assert told(of(fallbacks=("b",)), found=there).message == "While it cannot answer, b does."
    assert told(of(fallbacks=("b", "a")), found=there).message == "While it cannot answer, b and a do, in this order."
    unknown = told(of(fallbacks=("b", "team/c")), found={**there, ("team", "c"): UNWATCHED})
    assert unknown.message.endswith("does not watch the namespace of team/c, and takes it to be there.")


def test_the_page_has_every_reason_in_the_order_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operator.md").read_text()
    everything = of("gpt", fallbacks=("b", "ns/m"))
    rival, missing = (Namesake("gpt", "other", OLD),), {("ns", "b"): MISSING}
    said = (
        access_resolved(everything, rival, missing),
        access_resolved(everything, (), missing),
        access_resolved(everything, (), {}),
    )
    reasons = [item.reason for item in said if item]
    assert reasons == re.findall(r"^\| False, `(\w+)` \|", page, re.MULTILINE)
    assert "| True, `Resolved` |" in page


def test_precedence_is_a_total_order() -> None:
    """Whoever asks, gateway or operator, and in whatever order it knows them, finds the same one."""
    some = [Namesake("a", name, age) for name in ("a", "b", "c") for age in (OLD, YOUNG)]
    assert len({precedence(item) for item in some}) == len(some)


def test_names_are_read_with_their_namespace() -> None:
    found = of("gpt", fallbacks=("b", "team/c"))
    assert (found.aliases, found.fallbacks) == (("gpt",), (("ns", "b"), ("team", "c")))
    assert (model().aliases, model().fallbacks) == ((), ())


# What it changes, and what not.

ACCESS: dict[str, Any] = {
    "aliases": ["gpt"],
    "fallbacks": ["b"],
    "timeouts": {"queueSeconds": 5, "holdSeconds": 5, "progressSeconds": 5, "answerSeconds": 5},
    "retries": 0,
}


def test_a_change_of_it_writes_no_child_and_makes_no_revision() -> None:
    facts = settled(model(replicas=2), 2)
    before = facts.model.status
    changed = replace(model(replicas=2, access=ACCESS, status=dict(before)), generation=2)
    made = plan(replace(facts, model=changed))
    assert made.changes == Changes((), (), (), (), ())
    assert made.status["revision"] == before["revision"] and made.plan.again_s is None


def test_nothing_else_in_status_depends_on_it() -> None:
    facts = settled(model(), 1)
    of = replace(model(access=ACCESS, status=dict(facts.model.status)))
    taken = (Namesake("gpt", "m", YOUNG), Namesake("gpt", "other", OLD))
    made = plan(replace(facts, model=of, namesakes=taken, fallbacks={("ns", "b"): MISSING}))
    (said,) = [item for item in made.status["conditions"] if item["type"] == "AccessResolved"]
    assert (said["status"], said["reason"]) == ("False", "AliasTaken")
    others = [item for item in made.status["conditions"] if item["type"] != "AccessResolved"]
    assert others == facts.model.status["conditions"]
    rest = {"conditions"}
    assert {key: value for key, value in made.status.items() if key not in rest} == {
        key: value for key, value in facts.model.status.items() if key not in rest
    }


def test_it_is_an_event_once_and_again_for_another_reason() -> None:
    of = model(access=ACCESS)
    facts = settled(of, 1)
    there: dict[tuple[str, str], bool | None] = {("ns", "b"): THERE}
    rival = (Namesake("gpt", "m", YOUNG), Namesake("gpt", "other", OLD))

    def look(namesakes: tuple[Namesake, ...], found: dict[tuple[str, str], bool | None]) -> list[tuple[bool, str]]:
        nonlocal facts
        made = plan(replace(facts, namesakes=namesakes, fallbacks=found))
        facts = replace(facts, model=replace(facts.model, status=made.status))
        message = condition(made, "AccessResolved")["message"]
        assert all(event.message == message for event in made.plan.events)
        return [(event.warning, event.reason) for event in made.plan.events]

    assert look((), there) == []
    assert look(rival, there) == [(True, "AliasTaken")] and look(rival, there) == []
    assert look((), {("ns", "b"): MISSING}) == [(True, "FallbackNotFound")]
    assert look((), there) == [] and condition(plan(facts), "AccessResolved")["status"] == "True"


def test_it_goes_with_the_last_alias_and_fallback() -> None:
    facts = settled(model(access=ACCESS), 1)
    plain = replace(facts.model, aliases=(), fallbacks=())
    made = plan(replace(facts, model=plain))
    assert [item for item in made.status["conditions"] if item["type"] == "AccessResolved"] == []
    assert made.plan.events == ()
