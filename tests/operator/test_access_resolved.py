"""Aliases and fallbacks on a real API server: whoever is concerned by another model says so soon, and nothing restarts.

The operator here looks over its models every ten minutes: whatever happens within seconds, an event did.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from operatorlab.audit_log import asked
from operatorlab.world import Process, World

SOON_S = 6.0  # less than the ten seconds after which an unsettled model is looked at anyway
PASSES = 'topmast_operator_reconciles_total{result="done"}'


@pytest.fixture(scope="module")
def watching(whole_world: World) -> Iterator[Process]:
    with whole_world.operator() as process:
        yield process


def says(world: World, name: str, reason: str, *words: str) -> None:
    """Within moments; where nothing runs no pod tells anything that would bring a pass, either."""

    def look() -> bool:
        found = world.condition(name, "AccessResolved")
        return found["reason"] == reason and all(word in found["message"] for word in words)

    try:
        world.until(f"{name}: {reason}", look, SOON_S)
    except AssertionError as late:
        raise AssertionError(f"{late}; it says {world.condition(name, 'AccessResolved')}") from late


def add(world: World, name: str, *aliases: str, fallbacks: tuple[str, ...] = (), **spec: Any) -> None:
    access = {"aliases": list(aliases), "fallbacks": list(fallbacks)}
    world.apply(world.model(name, access=access, suspend=True, **spec))


def next_second() -> None:
    """Times of creation are whole seconds, and so are those of the audit log here."""
    time.sleep(1.1 - time.time() % 1)


def quiet_since() -> float:
    """From now on, what the operator asked for before apart."""
    next_second()
    return float(int(time.time()))


def test_of_two_models_with_an_alias_the_younger_says_so_until_the_other_goes(world: World, watching: Process) -> None:
    add(world, "first", "gpt-4o")
    says(world, "first", "Resolved", "as gpt-4o")
    next_second()
    add(world, "another", "gpt-4o", "gpt-4")
    says(world, "another", "AliasTaken", "ask for gpt-4o reach the model first, created 20", "Remove it from one")
    assert world.condition("another", "AccessResolved")["status"] == "False"
    assert world.condition("another", "Stalled")["status"] == "False"
    assert world.condition("another", "Ready")["status"] == "True", "suspended, as asked"
    world.until_told("another", "AliasTaken", "reach the model first")
    says(world, "first", "Resolved")
    world.kubectl("delete", "llm", "first")
    says(world, "another", "Resolved", "as gpt-4 and gpt-4o")


def test_an_alias_that_is_given_back_is_had_by_the_next(world: World, watching: Process) -> None:
    add(world, "first", "gpt-4o")
    next_second()
    add(world, "second", "gpt-4o")
    next_second()
    add(world, "third", "gpt-4o")
    says(world, "second", "AliasTaken", "the model first")
    says(world, "third", "AliasTaken", "the model first")
    add(world, "first", "gpt-4")
    says(world, "second", "Resolved")
    says(world, "third", "AliasTaken", "the model second")
    add(world, "first", "gpt-4", "gpt-4o")
    says(world, "second", "AliasTaken", "the model first")
    says(world, "third", "AliasTaken", "the model first")


def test_a_models_own_name_wins_over_an_older_alias(world: World, watching: Process) -> None:
    add(world, "older", "chat")
    says(world, "older", "Resolved")
    next_second()
    world.apply(world.model("chat", suspend=True))
    says(world, "older", "AliasTaken", "the model chat", "own name", "Choose another alias")
    world.until("the other one is looked at", lambda: world.condition("chat", "Ready")["status"] == "True")
    assert world.condition("chat", "AccessResolved")["status"] == "absent"
    world.kubectl("delete", "llm", "chat")
    says(world, "older", "Resolved")


def test_a_fallback_is_missed_until_it_comes_and_when_it_goes(world: World, watching: Process) -> None:
    add(world, "main", fallbacks=("spare", f"{world.namespace}/main"))
    says(world, "main", "FallbackNotFound", "no model spare", "create it", "main is this model itself")
    world.until_told("main", "FallbackNotFound")
    world.apply(world.model("spare", suspend=True))
    says(world, "main", "FallbackIsItself", f"{world.namespace}/main is this model itself")
    add(world, "main", fallbacks=("spare",))
    says(world, "main", "Resolved", "spare does")
    world.kubectl("delete", "llm", "spare")
    says(world, "main", "FallbackNotFound")
    add(world, "main")
    world.until("no word of it", lambda: world.condition("main", "AccessResolved")["status"] == "absent", SOON_S)


def test_a_fallback_of_another_namespace_is_looked_for_there(world: World, watching: Process) -> None:
    here, there = world.namespace, f"{world.namespace[:50]}-2"
    add(world, "main", fallbacks=(f"{there}/spare",))
    says(world, "main", "FallbackNotFound", f"{there}/spare")
    world.kubectl("create", "namespace", there)
    world.namespace = there
    try:
        world.apply(world.model("spare", suspend=True))
        world.namespace = here
        says(world, "main", "Resolved", f"{there}/spare")
    finally:
        world.namespace = here
        world.kubectl("delete", "namespace", there, "--wait=false")


def test_a_change_of_access_restarts_nothing_and_is_one_write_of_status(world: World, watching: Process) -> None:
    world.apply(world.model("calm", replicas=2))
    before, revision = world.until_settled("calm", 2), world.status("calm")["revision"]
    since = quiet_since()
    access = {
        "aliases": ["gpt-4o"],
        "timeouts": {"queueSeconds": 5, "holdSeconds": 5, "progressSeconds": 5, "answerSeconds": 5},
        "retries": 0,
    }
    world.kubectl("patch", "llm", "calm", "--type=merge", "-p", json.dumps({"spec": {"access": access}}))
    says(world, "calm", "Resolved", "as gpt-4o")
    found = world.until_ready("calm", 2)
    assert found["status"]["revision"] == revision and found["status"]["observedGeneration"] == 2
    time.sleep(2)
    assert world.versions("calm")[1:] == before[1:], "a child was written"
    writes = asked(world, since)
    assert len(writes) == 1 and writes[0].startswith("patch") and "/llmdeployments/calm/status" in writes[0], writes


def test_models_that_share_names_cost_nothing_at_rest(world: World, watching: Process) -> None:
    """Not a read for a pass over them, and no pass for what does not concern them."""
    world.until_alone()
    add(world, "first", "gpt-4o", fallbacks=("second",))
    next_second()
    add(world, "second", "gpt-4o", fallbacks=("first",))
    says(world, "first", "Resolved")
    says(world, "second", "AliasTaken")
    time.sleep(2)
    since, passes = quiet_since(), watching.metric(PASSES)
    for label in ("some", "more"):
        world.kubectl("label", "llm", "first", f"somebody={label}", "--overwrite")
        passes += 1
        world.until("a pass over it", lambda at_least=passes: watching.metric(PASSES) >= at_least, SOON_S)
    time.sleep(1)
    assert watching.metric(PASSES) == passes, "a pass over the other one, too"
    assert asked(world, since) == []
