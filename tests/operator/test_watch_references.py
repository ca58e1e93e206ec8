"""What models say of one another: read from indices by name, and whom a change of one of them concerns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operatorlab import bodies, facts
from operatorlab.indices import indices

from topmast_operator.api.facts import Facts, Namesake
from topmast_operator.api.resource import Key
from topmast_operator.api.times import to_text
from topmast_operator.plan.access import access_resolved
from topmast_operator.watch import records
from topmast_operator.watch.mirror import Indices, Mirror, NotSyncedError
from topmast_operator.watch.own_writes import OwnWrites
from topmast_operator.watch.records import ModelRef
from topmast_operator.watch.references import add_references, concerned


@dataclass(frozen=True)
class Some:
    """A model of a population: what others can see of it."""

    name: str
    age_s: int = 0
    aliases: frozenset[str] = frozenset()
    fallbacks: tuple[str, ...] = ()
    namespace: str = "ns"

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    def body(self) -> bodies.Object:
        access = {"aliases": sorted(self.aliases), "fallbacks": list(self.fallbacks)}
        born = to_text(facts.NOW - self.age_s)
        meta = {"name": self.name, "namespace": self.namespace, "creationTimestamp": born}
        return bodies.stored(facts.body(access=access), uid=f"uid-{self.key}", **meta)

    @property
    def ref(self) -> ModelRef:
        return records.read_ref(self.body())


@dataclass
class Town:
    """Models by key, as the indices show them once all events are in."""

    models: dict[Key, Some] = field(default_factory=dict)

    def indices(self) -> Indices:
        filled: Any = indices()
        for model in self.models.values():
            of = records.read_model(model.body())
            filled.models.put(model.key, of)
            for alias in model.aliases:
                filled.aliases.put((model.namespace, alias), model.ref)
            for named in of.content.fallbacks:
                filled.fallbacks.put(named, model.ref)
        found: Indices = filled
        return found

    def mirror(self, own: OwnWrites | None = None, namespaces: tuple[str, ...] = ()) -> Mirror:
        mirror = Mirror(own or OwnWrites(), namespaces)
        mirror.attach(self.indices())
        mirror.synced.set()
        return mirror

    def said(self, mirror: Mirror | None = None) -> dict[Key, Any]:
        """What each model says of its aliases and fallbacks."""
        mirror = mirror or self.mirror()
        return {key: _said(mirror, model) for key, model in self.models.items()}


def town(*models: Some) -> Town:
    return Town({model.key: model for model in models})


def _facts(mirror: Mirror, model: Some) -> Facts:
    record = records.read_model(model.body())
    return add_references(mirror, record, Facts(record.content, facts.NOW))


def _said(mirror: Mirror, model: Some) -> Any:
    seen = _facts(mirror, model)
    return access_resolved(seen.model, seen.namesakes, seen.fallbacks)


GPT, CHAT = frozenset({"gpt"}), frozenset({"chat"})


def test_namesakes_are_those_with_the_alias_and_the_model_of_that_name() -> None:
    me = Some("m", 5, GPT | CHAT)
    there = town(me, Some("a", 9, GPT), Some("gpt", 1), Some("b", 2, CHAT), Some("c", 9, frozenset({"other"})))
    seen = _facts(there.mirror(), me)
    found = {(item.alias, item.model, facts.NOW - item.created_unix_s) for item in seen.namesakes}
    assert found == {("gpt", "m", 5), ("chat", "m", 5), ("gpt", "a", 9), ("gpt", "gpt", 1), ("chat", "b", 2)}
    assert Namesake("gpt", "gpt", 0).by_own_name and not Namesake("gpt", "a", 0).by_own_name


def test_the_same_alias_in_another_namespace_is_another_one() -> None:
    me = Some("m", 1, GPT)
    there = town(me, Some("a", 9, GPT, namespace="team"), Some("gpt", 9, namespace="team"))
    assert [item.model for item in _facts(there.mirror(), me).namesakes] == ["m"]


def test_a_fallback_is_there_missing_or_not_watched() -> None:
    me = Some("m", fallbacks=("b", "c", "team/b", "team/x"))
    there = town(me, Some("b"), Some("b", namespace="team"))
    everywhere = {("ns", "b"): True, ("ns", "c"): False, ("team", "b"): True, ("team", "x"): False}
    assert _facts(there.mirror(), me).fallbacks == everywhere
    assert _facts(there.mirror(namespaces=("ns", "team")), me).fallbacks == everywhere
    here = _facts(there.mirror(namespaces=("ns",)), me).fallbacks
    assert here == {**everywhere, ("team", "b"): None, ("team", "x"): None}


def test_what_is_gone_counts_no_more_whatever_an_index_shows() -> None:
    """kopf never tells of what went away while no watch was open: the audit does."""
    me, rival, fallback = Some("m", 1, GPT, ("b",)), Some("a", 9, GPT), Some("b")
    own = OwnWrites()
    mirror = town(me, rival, fallback).mirror(own)
    for gone in (rival, fallback):
        own.forget(gone.ref.uid)
    seen = _facts(mirror, me)
    assert [item.model for item in seen.namesakes] == ["m"] and seen.fallbacks == {("ns", "b"): False}
    assert concerned(mirror, Some("z", 0, GPT).ref, GPT, frozenset()) == set()
    assert concerned(mirror, Some("k", 5, GPT).ref, GPT, frozenset()) == {("ns", "m")}


def test_a_model_that_cannot_be_read_has_its_name_all_the_same() -> None:
    me = Some("m", 9, GPT, ("broken",))
    broken, gpt = Some("broken").body(), Some("gpt").body()
    mirror = town(me).mirror()
    filled: Any = mirror._indices
    for body in (broken, gpt):
        del body["spec"]["model"]
        filled.models.put(("ns", body["metadata"]["name"]), records.read_model_if_valid(body))
    seen = _facts(mirror, me)
    assert ("gpt", "gpt") in {(item.alias, item.model) for item in seen.namesakes}
    assert seen.fallbacks == {("ns", "broken"): True}


def test_indices_that_are_being_filled_are_not_asked_unless_there_is_something_to_ask() -> None:
    mirror = Mirror(OwnWrites())
    assert _facts(mirror, Some("m")).namesakes == ()
    for model in (Some("m", aliases=GPT), Some("m", fallbacks=("b",))):
        with pytest.raises(NotSyncedError):
            _facts(mirror, model)
    assert concerned(mirror, Some("m", aliases=GPT).ref, None, GPT) == set(), "all get a pass when they are filled"


# Whom a change concerns: a population, the model that changes, its aliases before and after.

Change = tuple[str, list[Some], Some, frozenset[str] | None, frozenset[str] | None, set[str]]
NONE: frozenset[str] = frozenset()
CHANGES: list[Change] = [
    ("an older one comes", [Some("a", 1, GPT)], Some("m", 9, GPT), None, GPT, {"a"}),
    ("a younger one comes", [Some("a", 9, GPT)], Some("m", 1, GPT), None, GPT, set()),
    ("the one that had it goes", [Some("a", 1, GPT), Some("b", 2, GPT)], Some("m", 9, GPT), GPT, None, {"a", "b"}),
    ("one that had it not goes", [Some("a", 9, GPT), Some("b", 2, GPT)], Some("m", 1, GPT), GPT, None, set()),
    ("it gives the alias back", [Some("a", 1, GPT)], Some("m", 9, CHAT), GPT, CHAT, {"a"}),
    ("it keeps the alias", [Some("a", 1, GPT), Some("b", 1, CHAT)], Some("m", 9, GPT | CHAT), GPT, GPT | CHAT, {"b"}),
    ("as old, and first by name", [Some("z", 5, GPT)], Some("m", 5, GPT), None, GPT, {"z"}),
    ("as old, and last by name", [Some("a", 5, GPT)], Some("m", 5, GPT), None, GPT, set()),
    ("a model has that name", [Some("gpt"), Some("a", 1, GPT)], Some("m", 9, GPT), None, GPT, set()),
    ("the name itself comes", [Some("a", 1, GPT), Some("b", 1, CHAT)], Some("gpt"), None, NONE, {"a"}),
    ("the name itself goes", [Some("a", 1, GPT), Some("b", 1, CHAT)], Some("gpt"), NONE, None, {"a"}),
    ("a fallback comes", [Some("a", fallbacks=("m",)), Some("b", fallbacks=("z",))], Some("m"), None, NONE, {"a"}),
    ("a fallback goes", [Some("a", fallbacks=("z", "ns/m"))], Some("m"), NONE, None, {"a"}),
    ("a fallback gets an alias", [Some("a", fallbacks=("m",))], Some("m", aliases=GPT), NONE, GPT, set()),
    ("one of another namespace", [Some("a", 1, GPT, namespace="team")], Some("m", 9, GPT), None, GPT, set()),
    ("it names itself", [], Some("m", 9, GPT, ("ns/m",)), None, GPT, set()),
]


@pytest.mark.parametrize(
    ("others", "changed", "before", "after", "woken"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES]
)
def test_a_change_concerns(
    others: list[Some],
    changed: Some,
    before: frozenset[str] | None,
    after: frozenset[str] | None,
    woken: set[str],
) -> None:
    there = town(*others, *(() if after is None else (changed,)))
    assert concerned(there.mirror(), changed.ref, before, after) == {("ns", name) for name in woken}


def test_a_fallback_of_another_namespace_concerns_who_names_it_in_full() -> None:
    there = town(Some("a", fallbacks=("team/m",)), Some("b", fallbacks=("m",)), Some("m", namespace="team"))
    assert concerned(there.mirror(), Some("m", namespace="team").ref, None, NONE) == {("ns", "a")}


def test_of_a_thousand_models_with_one_alias_none_gets_a_pass_for_each_that_comes() -> None:
    """They come oldest first, as they are made: callers go on reaching the first, so nobody has anything to say."""
    filled: Any = indices()
    mirror = Mirror(OwnWrites())
    mirror.attach(filled)
    mirror.synced.set()
    everybody = [ModelRef("ns", f"m{number}", f"uid-{number}", float(number)) for number in range(1000)]
    for model in everybody:
        filled.aliases.put(("ns", "gpt"), model)
        assert concerned(mirror, model, None, GPT) == set()
    assert concerned(mirror, everybody[1], GPT, None) == set()
    assert len(concerned(mirror, everybody[0], GPT, None)) == 999


_names = st.sampled_from(["a", "b", "c", "gpt", "chat"])
_models = st.builds(
    Some,
    name=_names,
    age_s=st.integers(0, 2),
    aliases=st.frozensets(st.sampled_from(["gpt", "chat", "x"]), max_size=2),
    fallbacks=st.lists(st.sampled_from(["a", "b", "ns/c", "team/a", "chat"]), max_size=2, unique=True).map(tuple),
    namespace=st.sampled_from(["ns", "ns", "team"]),
)


def _possible(model: Some) -> Some:
    return replace(model, aliases=model.aliases - {model.name})


@settings(max_examples=300)
@given(
    st.lists(_models, max_size=5), _models, st.frozensets(st.sampled_from(["gpt", "chat", "x"])), st.sampled_from("adc")
)
def test_whoever_has_something_else_to_say_is_concerned(
    others: list[Some], model: Some, aliases: frozenset[str], what: str
) -> None:
    """Against the plain way: ask every model before and after. `a`: it appears, `d`: it is gone, `c`: other aliases."""
    changed, there = _possible(model), town(*map(_possible, others))
    there.models.pop(changed.key, None)
    without, with_it = there.said(), town(*there.models.values(), changed)
    if what == "c":
        after = _possible(replace(changed, aliases=aliases))
        then = town(*there.models.values(), after)
        found = concerned(then.mirror(), changed.ref, changed.aliases, after.aliases)
        assert _differ(with_it.said(), then.said()) - {changed.key} <= found
    elif what == "a":
        found = concerned(with_it.mirror(), changed.ref, None, changed.aliases)
        assert _differ(without, with_it.said()) - {changed.key} <= found
    else:
        found = concerned(there.mirror(), changed.ref, changed.aliases, None)
        assert _differ(with_it.said(), without) - {changed.key} <= found
    assert changed.key not in found


def _differ(before: Mapping[Key, Any], after: Mapping[Key, Any]) -> set[Key]:
    return {key for key in before.keys() & after.keys() if before[key] != after[key]}
