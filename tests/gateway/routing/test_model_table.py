"""The routing table, for every combination of models and pods."""

from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.routing.model_table import AmbiguousModel, Model, ModelTable, Pod, Route, UnknownModel

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
def test_namespace_slash_name_always_finds_exactly_its_model_and_its_pods(models: list[Model], pods: list[Pod]) -> None:
    routes = ModelTable(models, pods)
    for model in models:
        found = routes.find(model.key)
        assert isinstance(found, Route) and found.model == model
        assert set(found.pods) == {pod for pod in pods if pod.model == model.key}


@given(MODELS, NAMES)
def test_a_bare_name_finds_a_model_only_where_one_namespace_has_it(models: list[Model], asked: str) -> None:
    having = sorted(model.key for model in models if model.name == asked)
    match ModelTable(models).find(asked):
        case Route(model):
            assert [model.key] == having
        case AmbiguousModel(choices=choices):
            assert len(choices) > 1 and list(choices) == having
        case UnknownModel():
            assert having == []


@given(MODELS)
def test_every_public_name_leads_back_to_its_model(models: list[Model]) -> None:
    routes = ModelTable(models)
    for model in models:
        found = routes.find(routes.public_name(model))
        assert isinstance(found, Route) and found.model == model
    assert len({routes.public_name(model) for model in models}) == len(models)


@given(MODELS, PODS)
def test_pods_of_a_deleted_model_are_not_served(models: list[Model], pods: list[Pod]) -> None:
    known = {model.key for model in models}
    assert all(pod.model in known for route in ModelTable(models, pods) for pod in route.pods)
