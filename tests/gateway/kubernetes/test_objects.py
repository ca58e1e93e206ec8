"""Any object of the cluster is a value that can be used and kept, or it is left out; none takes long to look at."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.lab.growth import assert_linear
from topmast_gateway.kubernetes import informer, resources, snapshot
from topmast_gateway.kubernetes.informer import Informer
from topmast_gateway.kubernetes.resources import keys_of, model_of, pod_of
from topmast_gateway.kubernetes.snapshot import ClusterFacts
from topmast_gateway.routing.model_table import Model, ModelTable, Pod

LARGEST_BYTES = 1536 * 1024  # of an object that etcd takes
NOW = 1_800_000_000.0
META = {"uid": "u", "namespace": "ns", "name": "m", "resourceVersion": "1"}

TIMES = st.sampled_from(["2027-01-01T00:00:00Z", "0001-01-01T00:00:00", "9999-12-31T23:59:59Z", "soon", ""])
WORDS = st.sampled_from(
    ["True", "False", "Ready", "ContainersReady", "Stalled", "Asleep", "Waking", "Loading", "Draining", "a/b", "::1"]
)
NUMBERS = st.integers() | st.sampled_from([-1, 0, 62, 2**31, 2**64, 10**400, 1e308, float("inf"), float("nan"), -0.5])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=6) | TIMES | WORDS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def an_object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """With any of these fields, mostly as they should be."""
    return st.fixed_dictionaries({}, optional={name: likely | JSON for name, likely in fields.items()}) | JSON


def several(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(one, max_size=4)


NAMED = st.dictionaries(
    st.sampled_from([resources.MODEL_LABEL, resources.REVISION_LABEL, resources.DRAINING_ANNOTATION]), SCALARS
)
CONDITIONS = several(an_object(type=WORDS, status=WORDS, lastTransitionTime=TIMES))
META_FIELDS = st.fixed_dictionaries(
    {name: st.just(value) for name, value in META.items()},
    optional={
        "creationTimestamp": TIMES | JSON,
        "deletionTimestamp": TIMES | JSON,
        "labels": NAMED | JSON,
        "annotations": NAMED | JSON,
    },
)
ACCESS = an_object(
    aliases=several(st.text(max_size=6)),
    fallbacks=several(st.text(max_size=6)),
    timeouts=an_object(queueSeconds=NUMBERS, holdSeconds=NUMBERS, progressSeconds=NUMBERS, answerSeconds=NUMBERS),
    retries=NUMBERS,
)
STATUS = an_object(
    sleep=an_object(state=WORDS, since=TIMES),
    start=an_object(p90Seconds=NUMBERS),
    pods=several(an_object(phase=WORDS, percent=NUMBERS, etaSeconds=NUMBERS)),
    conditions=CONDITIONS,
    revisions=several(an_object(name=WORDS, weight=NUMBERS)),
    podIP=WORDS,
)
OBJECTS = st.fixed_dictionaries(
    {"metadata": META_FIELDS},
    optional={
        "spec": an_object(suspend=st.booleans(), sleep=st.just({}), access=ACCESS),
        "status": STATUS,
        "data": st.dictionaries(WORDS, SCALARS) | JSON,
    },
)


def read(parse: Callable[[Any], Any], item: Any) -> Any:
    """What an informer keeps of the object."""
    watching = Informer[Any]("things", "/things", parse, lambda: None)
    watching._apply("ADDED", item)
    return watching.items.get("u")


def is_kept(facts: ClusterFacts) -> bool:
    return bool(snapshot._decoder.decode(snapshot._encoder.encode(facts)) == facts)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OBJECTS)
def test_any_model_can_be_routed_shown_and_kept_or_is_left_out(item: Any) -> None:
    """A wrong number in one status was an error in its requests, or the end of the snapshot of all."""
    model: Model | None = read(model_of, item)
    if model is None:
        return
    assert is_kept(ClusterFacts({"": {"u": model}}, {}, [], [], ""))
    for now in (0.0, NOW):
        assert isinstance(model.status.text(now), str)
        eta_s = model.status.eta_s(now)
        assert eta_s is None or eta_s >= 0
    table = ModelTable([model])
    assert table.by_key("ns/m") is not None and table.public_name(model) == "m"
    assert {table.key_of(name) for name in table.aliases(model)} <= {"ns/m"}


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OBJECTS)
def test_any_pod_can_be_picked_and_kept_or_is_left_out(item: Any) -> None:
    pod: Pod | None = read(pod_of, item)
    if pod is not None:
        assert is_kept(ClusterFacts({}, {"": {"u": pod}}, [], [], ""))
        assert pod.address.endswith(":8000") and pod.model.startswith("ns/")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OBJECTS)
def test_any_secret_is_keys_or_none(item: Any) -> None:
    keys = read(keys_of, item)
    assert keys is None or is_kept(ClusterFacts({}, {}, list(keys), list(keys.teams), ""))


@given(JSON | st.fixed_dictionaries({"metadata": an_object(uid=st.just("u"), name=st.text())}))
def test_what_is_no_object_at_all_ends_a_watch_and_nothing_else(item: Any) -> None:
    for parse in (model_of, pod_of, keys_of):
        with contextlib.suppress(informer._UNREADABLE):
            read(parse, item)


def test_the_fuzz_reaches_what_is_served() -> None:
    """Guards the tests above."""
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "::1"}
    labels = {"labels": {resources.MODEL_LABEL: "m"}}
    pod = read(pod_of, {"metadata": {**META, **labels}, "status": ready})
    assert pod is not None and pod.address == "[::1]:8000"
    loading = {
        "pods": [{"phase": "Loading", "percent": 62, "etaSeconds": 18}],
        "revisions": [{"name": "a", "weight": 3}],
    }
    model = read(model_of, {"metadata": META, "status": loading})
    assert model.status.text(NOW) == "loading weights, 62 %, about 18 s" and model.weights == (("a", 3),)


@pytest.mark.parametrize("wrong", ["18", [18], {}, True, -1, float("inf"), float("nan"), 10**400, 2**64])
def test_a_number_that_is_none_is_not_told(wrong: Any) -> None:
    status = {"pods": [{"phase": "Loading", "percent": wrong, "etaSeconds": wrong}], "start": {"p90Seconds": wrong}}
    model = read(model_of, {"metadata": META, "status": status})
    assert model is not None and model.status.text(NOW) == "loading weights"
    asleep = read(model_of, {"metadata": META, "status": {**status, "sleep": {"state": "Asleep"}}})
    assert asleep is not None and asleep.status.text(NOW) == "asleep"


def of_model(where: str, one: Any) -> Callable[[int], Any]:
    """An LLMDeployment of this size, full of one thing: `where` is status.X or spec.access.X."""

    def make(size: int) -> Any:
        content: Any = [one] * (size // (len(json.dumps(one)) + 1))
        for name in reversed(where.split(".")):
            content = {name: content}
        return {"metadata": META, **content}

    return make


@pytest.mark.parametrize(
    ("where", "one"),
    [
        *((f"status.{name}", {}) for name in ("pods", "conditions", "revisions")),
        ("status.pods", {"phase": "Ready"}),
        ("status.pods", {"phase": "Warming up", "percent": 3}),
        ("status.conditions", {"type": "Stalled"}),
        ("status.revisions", {"name": "a", "weight": 1}),
        *((f"spec.access.{name}", text) for name in ("aliases", "fallbacks") for text in ("", "a", "ab/", "-" * 1000)),
    ],
)
def test_no_model_takes_long(where: str, one: Any) -> None:
    """Half a million entries took a tenth of a second of the loop, at each change of the object."""
    assert_linear(of_model(where, one), lambda item: read(model_of, item), LARGEST_BYTES)


@pytest.mark.parametrize("name", ["aliases", "fallbacks"])
def test_one_long_name_takes_no_longer_than_many(name: str) -> None:
    for letter in "a-/":
        assert_linear(
            lambda size, letter=letter: {"metadata": META, "spec": {"access": {name: [letter * size + "/!"]}}},
            lambda item: read(model_of, item),
            LARGEST_BYTES,
        )


@pytest.mark.parametrize("condition", [{}, {"type": "Ready"}, {"type": "X", "status": "True"}])
def test_no_pod_takes_long(condition: Any) -> None:
    labels = {"labels": {resources.MODEL_LABEL: "m"}}

    def make(size: int) -> Any:
        several = [condition] * (size // (len(json.dumps(condition)) + 1))
        return {"metadata": {**META, **labels}, "status": {"podIP": "1.2.3.4", "conditions": several}}

    assert_linear(make, lambda item: read(pod_of, item), LARGEST_BYTES)


def test_more_names_than_a_model_may_have_are_not_looked_at() -> None:
    names = [f"a{number}" for number in range(1000)]
    model = read(model_of, {"metadata": META, "spec": {"access": {"aliases": names, "fallbacks": names}}})
    assert model is not None and 16 <= len(model.aliases) <= 64 and 4 <= len(model.fallbacks) <= 64
    assert model.aliases[:16] == tuple(names[:16])
