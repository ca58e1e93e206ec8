"""The indices as the operator reads them: with its own writes, without what is gone, never half filled."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from operatorlab import bodies
from operatorlab.indices import indices

from topmast_operator.watch import audit, own_writes, records
from topmast_operator.watch.audit import Audit
from topmast_operator.watch.bell import Bell
from topmast_operator.watch.mirror import Indices, Mirror, NotSyncedError, copied
from topmast_operator.watch.own_writes import OwnWrites

Key = tuple[str, str]


@pytest.fixture
def own() -> OwnWrites:
    return OwnWrites()


@pytest.fixture
def known() -> Indices:
    filled = indices()
    filled.models.put(("ns", "m"), records.read_model(bodies.model()))  # type: ignore[attr-defined]
    filled.deployments.put(("ns", "m"), records.read_deployment(bodies.deployment(version=5)))  # type: ignore[attr-defined]
    return filled


@pytest.fixture
def mirror(own: OwnWrites, known: Indices) -> Mirror:
    mirror = Mirror(own)
    mirror.attach(known)
    mirror.synced.set()
    return mirror


def replicas(mirror: Mirror) -> list[int]:
    found = mirror.find("ns", "m")
    assert found is not None
    return [item.content.replicas for item in found.deployments]


def test_what_was_written_counts_before_the_index_shows_it(mirror: Mirror, own: OwnWrites, known: Indices) -> None:
    own.note({**bodies.deployment(3, version=7), "kind": "Deployment"})
    assert replicas(mirror) == [3]
    known.deployments.put(("ns", "m"), records.read_deployment(bodies.deployment(2, version=9)))  # type: ignore[attr-defined]
    assert replicas(mirror) == [2], "somebody wrote after us"
    known.deployments.put(("ns", "m"), records.read_deployment(bodies.deployment(1, version=8)))  # type: ignore[attr-defined]
    assert replicas(mirror) == [1], "what has been overtaken never comes back"


def test_what_was_created_counts_until_the_index_shows_it_or_it_was_deleted(
    mirror: Mirror, own: OwnWrites, known: Indices, monkeypatch: pytest.MonkeyPatch
) -> None:
    del known.deployments[("ns", "m")]  # type: ignore[attr-defined]
    own.note({**bodies.deployment(3), "kind": "Deployment"})
    assert replicas(mirror) == [3]
    own.forget("uid-of-" + bodies.deployment()["metadata"]["name"])
    assert replicas(mirror) == []
    own.note({**bodies.deployment(2, uid="another"), "kind": "Deployment"})
    assert replicas(mirror) == [2]
    monkeypatch.setattr(own_writes, "UNSEEN_S", 0.0)
    assert replicas(mirror) == [], "an index that never shows it is right in the end"


def test_a_delete_that_was_answered_counts_at_once(mirror: Mirror, own: OwnWrites) -> None:
    uid = "uid-of-" + bodies.deployment()["metadata"]["name"]
    own.note({"kind": "Status", "status": "Success", "details": {"uid": uid, "kind": "deployments"}})
    assert replicas(mirror) == []


def test_indices_that_are_being_filled_are_not_read(mirror: Mirror) -> None:
    mirror.attach(indices())
    with pytest.raises(NotSyncedError):
        mirror.find("ns", "m")
    assert mirror.nodes() is None, "no node known is not no node there"


def test_a_model_that_no_schema_would_let_pass_is_left_alone(mirror: Mirror, known: Indices) -> None:
    broken = copy.deepcopy(bodies.model())
    del broken["spec"]["model"]
    known.models.put(("ns", "m"), records.read_model_if_valid(broken))  # type: ignore[attr-defined]
    assert mirror.find("ns", "m") is None and mirror.versions("models")


def test_an_index_is_copied_while_another_thread_changes_it() -> None:
    class Store:
        def __init__(self) -> None:
            self.items: dict[int, int] = {}

        def __iter__(self) -> Iterator[int]:
            yield from self.items.values()  # as slow as Python: sure to be disturbed

    store, stop = Store(), threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.items[number] = number
            store.items.pop(number - 50, None)

    class One:
        def get(self, key: Any, default: Any = ()) -> Iterable[int]:
            return store

        def __iter__(self) -> Iterator[int]:
            return iter(())

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            seen = copied(One(), "any")
            assert list(seen) == sorted(seen)
    finally:
        stop.set()
        thread.join()


class Rung:
    """A bell and whom it woke."""

    def __init__(self, own: OwnWrites, **more: Any) -> None:
        self.woken: list[Key] = []
        self.bell = Bell(
            own,
            self.woken.append,
            heard=lambda: None,
            attached=lambda _: None,
            listed=lambda: None,
            **more,
        )

    async def after(self, *events: Any) -> list[Key]:
        self.woken.clear()
        for event in events:
            event()
        await asyncio.sleep(0)
        return list(self.woken)


async def test_own_writes_wake_nobody_and_no_foreign_change_is_lost(own: OwnWrites) -> None:
    rung = Rung(own)
    bell = rung.bell
    mine = {**bodies.deployment(version=7), "kind": "Deployment"}
    uid = mine["metadata"]["uid"]
    own.note(mine)
    assert await rung.after(lambda: bell.changed("ns", "m", uid, "7")) == []
    assert await rung.after(lambda: bell.changed("ns", "m", uid, "8")) == [("ns", "m")]

    bell.begin(("ns", "m"))  # a pass; the event of its write comes before the answer to it
    assert await rung.after(lambda: bell.changed("ns", "m", uid, "9")) == []
    own.note({**bodies.deployment(version=9), "kind": "Deployment"})
    assert await rung.after(lambda: bell.end(("ns", "m"))) == []

    bell.begin(("ns", "m"))
    assert await rung.after(lambda: bell.changed("ns", "m", uid, "10"), lambda: bell.changed("ns", "x", "u", "1")) == [
        ("ns", "x")
    ]
    assert await rung.after(lambda: bell.end(("ns", "m"))) == [("ns", "m")], "not ours: the pass did not see it"


async def test_room_wakes_only_those_who_wait_for_it(own: OwnWrites) -> None:
    rung = Rung(own)
    rung.bell.waits(("a", "m"), True)
    rung.bell.waits(("b", "m"), True)
    rung.bell.waits(("b", "m"), False)
    assert await rung.after(rung.bell.freed) == [("a", "m")]
    assert await rung.after(lambda: rung.bell.freed("b")) == []


async def test_who_is_concerned_by_another_models_names_is_woken_even_while_it_is_worked_on(own: OwnWrites) -> None:
    """No version is asked about: a pass that runs may have looked before the other model changed."""
    asked: list[Any] = []
    rung = Rung(own, concerned=lambda *change: asked.append(change) or [("ns", "m"), ("ns", "n")])
    other = records.read_ref(bodies.model())
    rung.bell.begin(("ns", "m"))
    woken = await rung.after(lambda: rung.bell.renamed(other, None, frozenset({"gpt"})))
    assert woken == [("ns", "m"), ("ns", "n")] and asked == [(other, None, frozenset({"gpt"}))]


class Listing:
    """An API server that lists these objects by the last part of the path."""

    def __init__(self, **objects: list[bodies.Object]) -> None:
        self.objects = objects

    async def pages(self, path: str, selector: str, *, accept: str) -> AsyncIterator[list[bodies.Object]]:
        assert "PartialObjectMetadata" in accept
        yield self.objects.get(path.rpartition("/")[2], [])


async def test_indices_that_lack_something_are_not_believed(
    mirror: Mirror, own: OwnWrites, known: Indices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "CATCH_UP_S", 0.3)
    model, pod = bodies.model(), bodies.pod(1, age_s=1)
    known.models.put(("ns", "m"), records.read_model(model))  # type: ignore[attr-defined]
    listing = Listing(llmdeployments=[model], deployments=[bodies.deployment(version=5)], pods=[pod])
    looks = Audit(listing, mirror, own, ())  # type: ignore[arg-type]
    assert not await looks.agrees(), "a pod is missing"
    newer = copy.deepcopy(pod)
    newer["metadata"]["resourceVersion"] = str(10**9)
    known.pods.put(("ns", "m"), records.read_model_pod(pod))  # type: ignore[attr-defined]
    listing.objects["pods"] = [newer]
    assert not await looks.agrees(), "its state is old"

    async def catch_up() -> None:
        await asyncio.sleep(0.15)
        known.pods.put(("ns", "m"), records.read_model_pod(newer))  # type: ignore[attr-defined]

    agrees, _ = await asyncio.gather(looks.agrees(), catch_up())
    assert agrees, "an index that is a moment behind is waited for"


async def test_what_went_away_while_no_watch_was_open_is_forgotten(mirror: Mirror, own: OwnWrites) -> None:
    """kopf lists anew after a gap and never tells what is no longer there."""
    found = mirror.find("ns", "m")
    assert found is not None and replicas(mirror) == [1]
    model = {"metadata": {"uid": "u", "resourceVersion": "1"}}
    assert await Audit(Listing(llmdeployments=[model]), mirror, own, ()).agrees()  # type: ignore[arg-type]
    assert replicas(mirror) == []
    assert await Audit(Listing(), mirror, own, ()).agrees()  # type: ignore[arg-type]
    assert mirror.find("ns", "m") is None
