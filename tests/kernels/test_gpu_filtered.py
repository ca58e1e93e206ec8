"""Which tokens top-k, top-p and min-p leave, and which of them is drawn: kernel and twin against the oracle."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from filtered_rows import check, parameters, sampled, seeds_of
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from oracle_vocabulary import Filters

from topmast_kernels.gpu import filtered as gpu
from topmast_kernels.gpu.sample import sample as sample_on_gpu
from topmast_kernels.twin import filtered as twin
from topmast_kernels.twin.sample import sample as sample_in_twin

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MIXED = [
    Filters(),
    Filters(0.7, top_k=5),
    Filters(1.5, top_k=40, top_p=0.8),
    Filters(1.2, top_p=0.9),
    Filters(1.0, min_p=0.1),
    Filters(2.0, top_k=100, top_p=0.5, min_p=0.02),
    Filters(1.0, top_k=1),
    Filters(0.0, top_p=0.5),
    Filters(3.0, top_p=0.7, min_p=0.05),
    Filters(1.0, top_p=0.0),
]


@pytest.fixture(params=[gpu, twin], ids=["gpu", "twin"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    chosen: ModuleType = request.param
    return chosen


filters = st.builds(
    Filters,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.0, 1.7, 4.0]),
    top_k=st.one_of(st.just(0), st.integers(1, 30), st.integers(1, 400)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(1e-4, 1.0)),
)
shapes = st.sampled_from(["normal", "spiky", "coarse", "sorted", "masked"])


def rows_of_shape(shape: str, rows: int, vocabulary: int, rng: np.random.Generator) -> torch.Tensor:
    x = rng.standard_normal((rows, vocabulary)) * 2.5
    if shape == "spiky":
        x[:, rng.integers(0, vocabulary, 4)] += 9
    elif shape == "coarse":  # ties everywhere, and at every limit
        x = np.round(x)
    elif shape == "sorted":
        x = np.sort(x, 1)
    elif shape == "masked":
        x[rng.random((rows, vocabulary)) < 0.7] = -np.inf
    return torch.from_numpy(x.astype(np.float32))


def kept_sets_are_the_oracles(
    module: ModuleType, wishes: list[Filters], shape: str, vocabulary: int, dtype: torch.dtype, salt: int
) -> None:
    logits = rows_of_shape(shape, len(wishes), vocabulary, np.random.default_rng(salt)).to(dtype)
    check(sampled(module, logits, wishes, block=128), logits, wishes, block=128)


arguments = given(
    st.lists(filters, min_size=3, max_size=3),
    shapes,
    st.sampled_from([1, 2, 33, 64, 127, 250]),
    st.sampled_from(DTYPES),
    st.integers(0, 2**31),
)
quiet = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@seed(20)
@settings(quiet, max_examples=100)
@arguments
def test_kept_sets_are_the_oracles_in_the_kernel(
    wishes: list[Filters], shape: str, vocabulary: int, dtype: torch.dtype, salt: int
) -> None:
    kept_sets_are_the_oracles(gpu, wishes, shape, vocabulary, dtype, salt)


@seed(21)
@settings(quiet, max_examples=300)
@arguments
def test_kept_sets_are_the_oracles_in_the_twin(
    wishes: list[Filters], shape: str, vocabulary: int, dtype: torch.dtype, salt: int
) -> None:
    kept_sets_are_the_oracles(twin, wishes, shape, vocabulary, dtype, salt)


@pytest.mark.old_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_filters_of_all_kinds_side_by_side(module: ModuleType, dtype: torch.dtype) -> None:
    logits = rows_of_shape("spiky", len(MIXED), 300, np.random.default_rng(5)).to(dtype)
    check(sampled(module, logits, MIXED, block=128), logits, MIXED, block=128)


@pytest.mark.parametrize(
    "off",
    [Filters(), Filters(top_k=-1), Filters(top_k=200), Filters(top_k=2**31 - 1), Filters(top_p=1.5, min_p=-1.0)],
    ids=str,
)
def test_filters_that_filter_nothing_leave_the_draw_of_sample_to_the_bit(module: ModuleType, off: Filters) -> None:
    logits = rows_of_shape("normal", 4, 200, np.random.default_rng(6))
    plain = sample_on_gpu if module is gpu else sample_in_twin
    expected = plain(logits, *seeds_of(4), temperature=torch.ones(4), block=64)
    found = sampled(module, logits, [off] * 4, block=64)
    assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.logprobs, expected.logprobs)
    assert found.kept.tolist() == [0] * 4


def test_filters_that_are_none_are_off(module: ModuleType) -> None:
    """Each alone, so that each way through the launches is taken."""
    logits = rows_of_shape("coarse", 3, 200, np.random.default_rng(7))
    strict = Filters(1.0, top_k=7, top_p=0.6, min_p=0.05)
    given_all = parameters([strict] * 3)
    for names in (["top_k"], ["top_p"], ["min_p"], ["top_k", "min_p"], ["top_p", "min_p"], []):
        wish = Filters(1.0, **{name: getattr(strict, name) for name in names})
        some = {name: given_all[name] for name in names}
        found = module.sample_filtered(logits, *seeds_of(3), block=128, **some)
        check(found, logits, [wish] * 3, block=128)


def test_a_looser_filter_never_keeps_less(module: ModuleType) -> None:
    row = rows_of_shape("coarse", 1, 150, np.random.default_rng(8))
    for name, values in {
        "top_k": [1, 2, 3, 10, 11, 60, 149],
        "top_p": [1e-8, 0.1, 0.35, 0.5, 0.9, 0.99, 1 - 1e-6],
        "min_p": [1.0, 0.9, 0.4, 0.1, 0.01, 1e-4, 1e-9],
    }.items():
        wishes = [Filters(2.0, **{name: value}) for value in values]
        counts = sampled(module, row.expand(len(wishes), -1).contiguous(), wishes, block=64).kept.tolist()
        assert counts == sorted(counts) and counts[0] < counts[-1], name


def test_top_p_sees_only_what_top_k_left_and_min_p_comes_last(module: ModuleType) -> None:
    logits = torch.tensor([[0.30, 0.25, 0.24, 0.11, 0.10]]).log().expand(3, -1).contiguous()
    wishes = [
        Filters(top_k=3, top_p=0.35),  # .30 / .79 = .38: one token; of all tokens' mass it would be two
        Filters(top_p=0.56, min_p=0.82),  # .30 + .25 < .56: three, of which min-p leaves two
        Filters(top_p=0.80, min_p=0.35),  # min-p first would leave four, of whose mass three reach .80
    ]
    assert sampled(module, logits, wishes).kept.tolist() == [1, 2, 4]


def test_a_nucleus_ends_with_the_token_that_reaches_p_and_an_exact_hit_adds_none(module: ModuleType) -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]]).expand(5, -1).contiguous()  # exactly a quarter each
    wishes = [Filters(top_p=p) for p in (0.25, 0.5, 0.75, 0.5001, 1e-8)]
    found = sampled(module, logits, wishes)
    assert found.kept.tolist() == [1, 2, 3, 3, 1]
    assert found.tokens[4] == 0


def test_extreme_limits(module: ModuleType) -> None:
    wishes = [
        Filters(top_k=249),
        Filters(top_p=1 - 1e-7),
        Filters(top_p=1e-8),
        Filters(5.0, min_p=1.0),
        Filters(1e-4, top_p=0.999),
        Filters(1e6, top_p=0.5),
    ]
    for shape in ("normal", "coarse"):
        logits = rows_of_shape(shape, len(wishes), 250, np.random.default_rng(9))
        check(sampled(module, logits, wishes, block=256), logits, wishes, block=256)


def test_a_large_vocabulary(module: ModuleType) -> None:
    logits = rows_of_shape("normal", 4, 50000, np.random.default_rng(10)).bfloat16()
    wishes = [Filters(top_k=50), Filters(0.8, top_k=20, top_p=0.9), Filters(0.5, top_p=0.6), Filters(min_p=0.2)]
    found = sampled(module, logits, wishes, vocabulary=49152)
    check(found, logits, wishes, vocabulary=49152)
