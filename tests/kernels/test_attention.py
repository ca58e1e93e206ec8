"""Paged attention against float64 NumPy: spans and lone rows of several sequences in scattered blocks, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from topmast_kernels.cpu import attention
from topmast_kernels.cpu.layout import SPLIT, Layout, Paged, supported

LAYERS, LAYER = 2, 1
LAYOUTS = {
    "9 heads share 3": Layout(9, 3, 64, 32, half=False, interleaved=True),
    "no sharing": Layout(4, 4, 48, 16, half=False, interleaved=False),
    "8 heads share one": Layout(8, 1, 32, 256, half=False, interleaved=False),
    "7 heads share one": Layout(7, 1, 16, 128, half=False, interleaved=True),
    "float16": Layout(9, 3, 64, 32, half=True, interleaved=True),
}


@dataclass
class Sequence:
    """Queries, keys and values [tokens, heads + 2 kv_heads, D] of one sequence, and its line of block ids."""

    qkv: NDArray[np.float32]
    table: NDArray[np.int32]


class Cache:
    """Some sequences in one cache, whose blocks were used before: what is not theirs is not a number."""

    def __init__(self, layout: Layout, lengths: list[int]) -> None:
        rng = np.random.default_rng(sum(lengths))
        self.layout = layout
        per_line = -(-max(lengths) // layout.block_size)
        blocks = per_line * len(lengths)
        item = np.float16 if layout.half else np.float32
        values = LAYERS * 2 * layout.kv_heads * layout.head_size * layout.block_size
        self.bytes = np.full((blocks, values), np.nan, item).view(np.uint8)
        order = rng.permutation(blocks).astype(np.int32).reshape(len(lengths), per_line)
        angles = rng.uniform(0, 7, (max(lengths), layout.head_size // 2))
        self.cosines, self.sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        heads = layout.heads + 2 * layout.kv_heads
        self.sequences = [
            Sequence((2 * rng.standard_normal((n, heads, layout.head_size))).astype(np.float32), line)
            for n, line in zip(lengths, order, strict=True)
        ]
        self.done = [0] * len(lengths)

    def step(self, counts: list[int], threads: int = 2) -> list[NDArray[np.float32]]:
        """Store and attend to the next tokens of each sequence, in one batch: answers [count, heads, D]."""
        spans, row = [], 0
        for line, count in enumerate(counts):
            if count:
                spans.append((row, self.done[line], count, line))
                row += count
        rows = [self.sequences[line].qkv[start : start + count] for _, start, count, line in spans]
        qkv = np.concatenate(rows).reshape(row, -1)
        tables = np.stack([sequence.table for sequence in self.sequences])
        out = np.full((row, self.layout.heads * self.layout.head_size), np.nan, np.float32)
        layout = self.layout
        paged = Paged(np.array(spans), tables, self.cosines, self.sines, self.bytes)
        attention.store_kv(qkv, paged, layout, LAYER, False)
        tasks, counter = attention.plan_tasks(paged, layout, threads), np.zeros(1, np.int64)
        attention.attend(tasks, counter, qkv, paged, layout, LAYER, threads, out)
        answers = []
        for line, count in enumerate(counts):
            self.done[line] += count
            first = next((span[0] for span in spans if span[3] == line), 0)
            answers.append(out[first : first + count].reshape(count, layout.heads, layout.head_size))
        return answers

    def expected(self, line: int) -> NDArray[np.float64]:
        """All answers of a sequence in float64: [tokens, heads, D]."""
        layout, qkv = self.layout, self.sequences[line].qkv.astype(np.float64)
        cosines, sines = (angles[: len(qkv), None].astype(np.float64) for angles in (self.cosines, self.sines))
        half = layout.head_size // 2
        order = (
            np.arange(layout.head_size).reshape(-1, 2) if layout.interleaved else np.arange(2 * half).reshape(2, -1).T
        )
        turned = qkv.copy()
        first, second = qkv[..., order[:, 0]], qkv[..., order[:, 1]]
        turned[..., order[:, 0]] = first * cosines - second * sines
        turned[..., order[:, 1]] = second * cosines + first * sines
        out = np.empty((len(qkv), layout.heads, layout.head_size))
        for head in range(layout.heads):
            mine = head * layout.kv_heads // layout.heads
            keys, values = turned[:, layout.heads + mine], qkv[:, layout.heads + layout.kv_heads + mine]
            scores = turned[:, head] @ keys.T / np.sqrt(layout.head_size)
            scores[np.triu_indices(len(qkv), 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ values
        return out


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_attend_to_their_own_past(name: str) -> None:
    layout, lengths = LAYOUTS[name], [300, 1, 2 * SPLIT, 37]
    cache = Cache(layout, lengths)
    for line, answer in enumerate(cache.step(lengths)):
        # Scores reach 50, of which float32 keeps 2^-19; float16 keeps 11 bits of each key and value.
        bound = 3e-2 if layout.half else 3e-5
        assert np.max(np.abs(answer - cache.expected(line))) < bound


@pytest.mark.parametrize("name", LAYOUTS)
def test_bits_depend_neither_on_the_cut_nor_on_the_batch(name: str) -> None:
    lengths = [300, 260]
    together = Cache(LAYOUTS[name], lengths).step(lengths)
    cut = Cache(LAYOUTS[name], lengths)
    pieces: list[list[NDArray[np.float32]]] = [[], []]
    for counts in ([1, 0], [1, 130], [64, 1], [0, 1], [7, 63], [55, 65], [128, 0], *[[1, 0]] * 44):
        for line, answer in enumerate(cut.step(counts)):
            pieces[line].append(answer)
    for line in range(2):
        assert np.array_equal(np.concatenate(pieces[line]), together[line])


def test_bits_of_lone_rows_do_not_depend_on_how_many_threads_share_their_parts() -> None:
    answers = []
    for threads in (1, 2, 64):
        cache = Cache(LAYOUTS["9 heads share 3"], [700, 700, 700])
        cache.step([699, 640, 128], threads)
        answers.append(cache.step([1, 1, 1], threads))
    for other in answers[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(answers[0], other, strict=True))


def test_a_poisoned_sequence_does_not_reach_its_neighbour() -> None:
    cache = Cache(LAYOUTS["float16"], [40, 40])
    cache.sequences[0].qkv[11] = np.nan
    poisoned, healthy = cache.step([40, 40])
    assert np.isnan(poisoned[11:]).all()
    assert np.isfinite(healthy).all()


def test_scores_beyond_the_range_of_exp_stay_numbers() -> None:
    cache = Cache(LAYOUTS["no sharing"], [200])
    cache.sequences[0].qkv[:, :8] *= 40.0
    assert np.max(np.abs(cache.step([200])[0] - cache.expected(0))) < 2e-2
    assert np.abs(cache.sequences[0].qkv[:, 0] ** 2).sum(-1).max() > 1e4


@pytest.mark.parametrize(
    ("layout", "taken"),
    [
        (Layout(9, 3, 64, 32, half=True, interleaved=True), True),
        (Layout(9, 3, 64, 256, half=True, interleaved=True), True),
        (Layout(9, 3, 40, 32, half=True, interleaved=True), False),
        (Layout(9, 2, 64, 32, half=True, interleaved=True), False),
        (Layout(9, 3, 64, 8, half=True, interleaved=True), False),
        (Layout(9, 3, 64, 48, half=True, interleaved=True), False),
    ],
)
def test_what_does_not_fit_into_whole_vectors_is_declined(layout: Layout, taken: bool) -> None:
    assert supported(layout) == taken
