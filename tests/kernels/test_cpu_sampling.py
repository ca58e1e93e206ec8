"""The CPU sampler leaves and draws what float64 leaves and draws, and the same as its twin."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from cpu_rows import check, draw, sampled
from filtered_rows import parameters, seeds_of
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from logit_rows import VOCABULARIES, special_rows
from oracle_vocabulary import Filters
from test_gpu_filtered import MIXED, filters, quiet, rows_of_shape, shapes

from topmast_kernels import partition
from topmast_kernels.cpu import sampling, sampling_lines
from topmast_kernels.twin.filtered import sample_filtered

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


def rows_of(shape: str, rows: int, vocabulary: int, salt: int) -> np.ndarray:
    return rows_of_shape(shape, rows, vocabulary, np.random.default_rng(salt)).numpy()


def test_lines_are_those_of_the_other_kernels() -> None:
    assert sampling_lines.LINE == partition.LINE


@seed(30)
@settings(quiet, max_examples=300)
@given(
    st.lists(filters, min_size=3, max_size=3),
    shapes,
    st.sampled_from([1, 2, 33, 64, 127, 250, 1000]),
    st.integers(0, 2**31),
)
def test_kept_sets_and_tokens_are_the_oracles(wishes: list[Filters], shape: str, vocabulary: int, salt: int) -> None:
    logits = rows_of(shape, 3, vocabulary, salt)
    check(sampled(sampling, logits, wishes, block=128), logits, wishes, block=128)


@pytest.mark.parametrize("wish", MIXED, ids=str)
def test_special_rows(wish: Filters) -> None:
    logits = np.stack(list(special_rows(300).values()))
    wishes = [wish] * len(logits)
    assert check(sampled(sampling, logits, wishes, block=64), logits, wishes, block=64) < 6  # exact hits of equal ones


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_length(vocabulary: int) -> None:
    rows = special_rows(vocabulary, seed=vocabulary)
    logits = np.stack([rows[name] for name in ("normal, deviation 1.0", "coarse", "like a language model's")])
    for wish in MIXED:
        check(sampled(sampling, logits, [wish] * 3), logits, [wish] * 3)


def test_a_large_vocabulary_and_more_candidates_than_lines() -> None:
    wishes = [*MIXED, Filters(top_k=2000), Filters(top_k=49151, top_p=0.99), Filters(1.0, top_p=1 - 1e-6)]
    for shape in ("normal", "spiky"):
        logits = rows_of(shape, len(wishes), 49152, 10)
        assert check(sampled(sampling, logits, wishes), logits, wishes) == 0


def test_extreme_limits() -> None:
    wishes = [
        Filters(top_k=249),
        Filters(top_p=1 - 1e-7),
        Filters(top_p=1e-8),
        Filters(5.0, min_p=1.0),
        Filters(1.0, min_p=1e-30),
        Filters(1e-4, top_p=0.999),
        Filters(1e6, top_p=0.5),
        Filters(1e38, top_k=200, min_p=0.5),
        Filters(1.1e-5),
    ]
    for shape in ("normal", "coarse", "masked"):
        logits = rows_of(shape, len(wishes), 250, 9)
        assert check(sampled(sampling, logits, wishes), logits, wishes) == 0


def test_the_nucleus_of_equal_tokens_is_cut_at_the_lowest_ids() -> None:
    """A quarter each, exactly: the token that reaches p stays, an exact hit adds none, and one always stays."""
    wishes = [Filters(top_p=p) for p in (0.25, 0.5, 0.75, 0.5001, 1e-8)]
    tokens, kept = sampled(sampling, np.zeros((5, 4), np.float32), wishes)
    assert kept.tolist() == [1, 2, 3, 3, 1] and tokens[4] == 0
    flat = np.full((1, 6400), 2.5, np.float32)
    assert sampled(sampling, flat, [Filters(top_p=0.75)])[1].tolist() == [4800]
    several = [draw(sampling, flat, [Filters(top_k=70)], np.array([n]), np.array([0]))[0][0] for n in range(200)]
    assert max(several) < 70


def test_an_infinite_logit_takes_all_and_several_share() -> None:
    logits = np.random.default_rng(1).standard_normal((300, 200)).astype(np.float32)
    logits[:, [3, 150]] = np.inf
    for wish in (Filters(), Filters(top_k=5), Filters(0.5, top_p=0.9), Filters(min_p=0.3)):
        tokens, _ = sampled(sampling, logits, [wish] * 300)
        assert set(tokens.tolist()) == {3, 150}
    assert sampled(sampling, logits, [Filters(0.0)] * 300)[0].tolist() == [3] * 300


@pytest.mark.parametrize("wish", [Filters(0.0), *MIXED[:5]], ids=str)
def test_a_row_that_is_not_usable_touches_no_other(wish: Filters) -> None:
    logits = rows_of("spiky", 6, 300, 3)
    wishes = [wish] * 6
    alone = sampled(sampling, logits, wishes)
    for place in (0, 63, 64, 299):
        broken = logits.copy()
        broken[1, place], broken[3], broken[4, place] = np.nan, -np.inf, -np.float32(np.nan)
        tokens, kept = sampled(sampling, broken, wishes)
        assert tokens[[1, 3, 4]].tolist() == [-1] * 3 and kept[[1, 3, 4]].tolist() == [0] * 3
        assert tokens[::2][:2].tolist() == alone[0][::2][:2].tolist() and tokens[5] == alone[0][5]


def test_a_row_gives_the_same_alone_in_a_batch_in_another_order_and_with_any_number_of_threads() -> None:
    wishes = MIXED * 4
    logits = rows_of("normal", len(wishes), 9000, 4)
    seeds, positions = (each.numpy().astype(np.int64) for each in seeds_of(len(wishes)))
    together = draw(sampling, logits, wishes, seeds, positions)
    for row in range(0, len(wishes), 3):
        at = slice(row, row + 1)
        alone = draw(sampling, logits[at], wishes[at], seeds[at], positions[at])
        assert (alone[0][0], alone[1][0]) == (together[0][row], together[1][row])
    turned = draw(sampling, logits[::-1].copy(), wishes[::-1], seeds[::-1].copy(), positions[::-1].copy())
    assert np.array_equal(turned[0][::-1], together[0]) and np.array_equal(turned[1][::-1], together[1])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    single = draw(sampling, logits, wishes, seeds, positions)
    numba.set_num_threads(threads)
    assert np.array_equal(single[0], together[0])


def test_filters_that_are_no_numbers_are_off_and_a_temperature_that_is_none_is_greedy() -> None:
    logits, nothing = rows_of("normal", 5, 300, 7), float("nan")
    wishes = [Filters(), Filters(top_k=5), Filters(top_p=0.5), Filters(min_p=0.2), Filters(0.0)]
    odd = [
        Filters(top_p=nothing, min_p=nothing),
        Filters(top_k=5, top_p=nothing),
        Filters(top_p=0.5, min_p=nothing),
        Filters(top_p=nothing, min_p=0.2),
        Filters(nothing, top_k=7),
    ]
    found, expected = sampled(sampling, logits, odd), sampled(sampling, logits, wishes)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


def test_numbers_of_threads_are_left_as_they_were() -> None:
    threads = numba.get_num_threads()
    sampled(sampling, np.zeros((1, 64), np.float32), [Filters()])
    assert numba.get_num_threads() == threads


@pytest.mark.parametrize("shape", ["normal", "spiky", "coarse"])
def test_tokens_are_the_twins(shape: str) -> None:
    wishes = MIXED * 10
    logits = rows_of(shape, len(wishes), 3000, 6)
    tokens, _ = sampled(sampling, logits, wishes)
    seeds, positions = seeds_of(len(wishes))
    assert (
        tokens.tolist()
        == sample_filtered(torch.from_numpy(logits), seeds, positions, **parameters(wishes)).tokens.tolist()
    )


def test_rows_of_a_larger_array_are_taken_where_they_lie() -> None:
    wide = rows_of("normal", 4, 640, 8)
    part = wide[:, 100:420]
    assert np.array_equal(sampled(sampling, part, MIXED[:4])[0], sampled(sampling, part.copy(), MIXED[:4])[0])


def test_no_rows_give_no_tokens() -> None:
    assert sampled(sampling, np.zeros((0, 64), np.float32), [])[0].tolist() == []


def test_bad_arguments_are_told_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"logits are float64 \[2, 8\]; give float32 \[rows, vocabulary\]"):
        sampled(sampling, np.zeros((2, 8)), [Filters()] * 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="logits have 2 rows; give as many seeds"):
        draw(sampling, np.zeros((2, 8), np.float32), [Filters()] * 3, np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match=r"logits are float32 \[2, 0\]"):
        sampled(sampling, np.zeros((2, 0), np.float32), [Filters()] * 2)
