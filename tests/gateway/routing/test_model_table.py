"""The routing table, for every combination of models and pods."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.growth import assert_growth
from topmast_gateway.routing.model_table import Model, ModelTable, Pod

NAMES = st.sampled_from(["a", "b", "c"])
MODELS = st.lists(st.builds(Model, namespace=NAMES, name=NAMES), unique_by=lambda model: model.key)
PODS = st.lists(
    st.builds(
        lambda uid, namespace, model: Pod(str(uid), namespace, f"pod-{uid}", f"{namespace}/{model}", "127.0.0.1:8000"),
        st.integers(0, 99), NAMES, NAMES,
    ),
    unique_by=lambda pod: pod.uid,
)  # fmt: skip


@given(MODELS, PODS)
def test_a_key_finds_exactly_its_model_and_its_pods(models: list[Model], pods: list[Pod]) -> None:
    routes = ModelTable(models, pods)
    for model in models:
        found = routes.by_key(model.key)
        assert found is not None and found.model == model
        assert set(found.pods) == {pod for pod in pods if pod.model == model.key}


@given(MODELS, NAMES, st.sets(st.sampled_from(["a/a", "b/a", "c/c"])))
def test_a_name_stands_for_every_model_that_has_it_or_had_it_a_moment_ago(
    models: list[Model], asked: str, gone: set[str]
) -> None:
    having = {model.key for model in models if model.name == asked} | {key for key in gone if key.endswith(f"/{asked}")}
    deleted = [Model(*key.split("/")) for key in gone]
    assert list(ModelTable(models, gone=deleted).named(asked)) == sorted(having)


@given(MODELS)
def test_every_public_name_stands_for_one_model(models: list[Model]) -> None:
    routes = ModelTable(models)
    for model in models:
        name = routes.public_name(model)
        assert name == model.key or routes.named(name) == [model.key]
    assert len({routes.public_name(model) for model in models}) == len(models)


@given(MODELS, PODS)
def test_pods_of_a_deleted_model_are_not_served(models: list[Model], pods: list[Pod]) -> None:
    known = {model.key for model in models}
    assert all(pod.model in known for route in ModelTable(models, pods) for pod in route.pods)


def test_a_models_own_name_comes_before_aliases_and_of_two_aliases_the_older_models() -> None:
    old = Model("ns", "old", created=5, aliases=("chat", "young", "same"))
    young = Model("ns", "young", created=9, aliases=("chat", "small"))
    twins = [Model("ns", name, created=7, aliases=("same-age",)) for name in ("b", "a")]
    elsewhere = Model("other", "m", created=1, aliases=("chat",))
    routes = ModelTable([young, old, *twins, elsewhere])
    assert routes.key_of("ns/chat") == "ns/old" and routes.key_of("ns/young") == "ns/young"
    assert routes.key_of("ns/same-age") == "ns/a" and routes.key_of("ns/nothing") == "ns/nothing"
    assert routes.named("chat") == ["ns/old", "other/m"] and routes.named("small") == ["ns/young"]
    assert routes.aliases(old) == ["ns/chat", "ns/same"] and routes.aliases(young) == ["ns/small"]


def test_an_alias_of_a_model_that_is_just_gone_is_kept_unless_another_model_there_has_it() -> None:
    gone, stays = Model("ns", "gone", aliases=("chat", "code")), Model("ns", "stays", created=9, aliases=("code",))
    routes = ModelTable([stays, Model("other", "m", aliases=("chat",))], gone=[gone])
    assert routes.named("chat") == ["ns/gone", "other/m"], "nobody else's model answers for it meanwhile"
    assert routes.key_of("ns/code") == "ns/stays"


@pytest.mark.parametrize("shape", ["every alias once", "the same aliases in one namespace", "and in every namespace"])
def test_a_thousand_models_with_all_aliases_they_may_have_take_time_by_their_number(shape: str) -> None:
    def make(count: int) -> list[Model]:
        return [
            Model(
                f"ns{number}" if shape == "and in every namespace" else "ns",
                f"m{number}",
                created=-number,
                aliases=tuple(f"{number if shape == 'every alias once' else ''}a{alias}" for alias in range(16)),
            )
            for number in range(count)
        ]

    def look(models: list[Model]) -> None:
        table = ModelTable(models, gone=models[::2])
        for model in models:
            table.public_name(model)
            table.aliases(model)

    assert_growth(make, look, 1000)
