"""The compiled forward pass: torch's logits, and the same bits however the tokens come to it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import Format, row_bytes
from topmast_server.models.batch import Batch, Span
from topmast_server.models.kernels import Kernels, load_kernels
from topmast_server.models.llama import Llama
from topmast_server.models.precision import Precision
from topmast_server.weights.matrix import LayerWeights, LlamaShape, Matrix, ModelWeights

SHAPE = LlamaShape(96, 192, 3, 6, 2, 32, 160, 512, 1e-5, 10000.0, rope_interleaved=True)
LENGTHS = [150, 9, 40]
Logits = dict[tuple[int, int], NDArray[np.float32]]  # by sequence and position


def random_matrix(rng: np.random.Generator, kind: Format, rows: int, columns: int) -> Matrix:
    raw = rng.integers(0, 256, (rows, row_bytes(kind, columns)), dtype=np.uint8)
    blocks = raw.reshape(rows, columns // 32, -1)
    levels = 128 if kind is Format.Q8_0 else 8
    scale = np.float16(1.7 / levels / np.sqrt(columns))
    blocks[:, :, :2] = np.array([scale]).view(np.uint8)
    if kind is Format.Q4_1:
        blocks[:, :, 2:4] = np.array([-7.5 * scale], np.float16).view(np.uint8)
    return Matrix(kind, raw, rows, columns)


def random_weights() -> ModelWeights:
    rng, shape = np.random.default_rng(0), SHAPE
    wide, narrow = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layers = [
        LayerWeights(
            attention_norm=rng.uniform(0.5, 1.5, shape.hidden).astype(np.float32),
            query=random_matrix(rng, Format.Q4_1, wide, shape.hidden),
            key=random_matrix(rng, Format.Q4_1, narrow, shape.hidden),
            value=random_matrix(rng, Format.Q8_0, narrow, shape.hidden),
            attention_out=random_matrix(rng, Format.Q4_1, shape.hidden, wide),
            mlp_norm=rng.uniform(0.5, 1.5, shape.hidden).astype(np.float32),
            gate=random_matrix(rng, Format.Q4_1, shape.mlp, shape.hidden),
            up=random_matrix(rng, Format.Q4_1, shape.mlp, shape.hidden),
            down=random_matrix(rng, Format.Q8_0, shape.hidden, shape.mlp),
        )
        for _ in range(shape.layers)
    ]
    embedding = random_matrix(rng, Format.Q8_0, shape.vocabulary, shape.hidden)
    norm = rng.uniform(0.5, 1.5, shape.hidden).astype(np.float32)
    return ModelWeights(shape, embedding, layers, norm, embedding, (2,), "gguf")


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return load_kernels()


def new_model(kernels: Kernels | None, kv_dtype: Precision = Precision.FLOAT32, *, exact: bool = False) -> Llama:
    model = Llama(random_weights(), Precision.FLOAT32, 40, 16, 256, kv_dtype=kv_dtype)
    if kernels is not None:
        model.use(kernels, exact=exact)
    return model


TOKENS = [np.random.default_rng(line).integers(0, SHAPE.vocabulary, n) for line, n in enumerate(LENGTHS)]
TABLES = np.random.default_rng(9).permutation(40)[:36].reshape(3, 12).astype(np.int32)


def feed(model: Llama, steps: Sequence[Sequence[int]], sampled: bool = True) -> Logits:
    """Steps of so many further tokens of each sequence; the logits at (sequence, position)."""
    done: list[int] = [0, 0, 0]
    logits: Logits = {}
    for counts in steps:
        spans, rows, tokens, positions = [], [], 0, []
        for line, count in enumerate(counts):
            if count:
                spans.append(Span(tokens, done[line], count, line))
                positions += [(line, at) for at in range(done[line], done[line] + count)]
                rows.append(TOKENS[line][done[line] : done[line] + count])
                tokens += count
                done[line] += count
        wanted = np.arange(tokens) if sampled else np.zeros(0, np.int64)
        at = np.array([position for _, position in positions])
        answer = model.forward(Batch(np.concatenate(rows), at, spans, TABLES, wanted)).copy()
        if sampled:
            logits |= dict(zip(positions, answer, strict=True))
    return logits


WHOLE = [LENGTHS]
CUT = [[7, 0, 0], [1, 1, 13], [70, 7, 1], [1, 1, 20], [60, 0, 6], *[[1, 0, 0]] * 11]
ONE_BY_ONE = [[1, int(n < 9), int(n < 40)] for n in range(150)]


@pytest.mark.parametrize("kv_dtype", [Precision.FLOAT32, Precision.FLOAT16])
def test_compiled_logits_are_those_of_torch(kernels: Kernels, kv_dtype: Precision) -> None:
    theirs, ours = feed(new_model(None, kv_dtype), CUT), feed(new_model(kernels, kv_dtype, exact=True), CUT)
    assert theirs.keys() == ours.keys()
    spread = np.std(np.stack(list(theirs.values())))
    for place, row in theirs.items():
        assert np.max(np.abs(ours[place] - row)) < (1e-4 if kv_dtype == Precision.FLOAT32 else 1e-2) * spread


@pytest.mark.parametrize("kv_dtype", [Precision.FLOAT32, Precision.FLOAT16])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("steps", [CUT, ONE_BY_ONE], ids=["cut", "one by one"])
def test_bits_do_not_depend_on_how_the_tokens_came(
    kernels: Kernels, kv_dtype: Precision, steps: list[list[int]], exact: bool
) -> None:
    together, apart = (feed(new_model(kernels, kv_dtype, exact=exact), plan) for plan in (WHOLE, steps))
    for place, row in together.items():
        assert np.array_equal(apart[place], row), place


def test_bits_do_not_depend_on_the_neighbours(kernels: Kernels) -> None:
    together = feed(new_model(kernels), CUT)
    for line in range(3):
        alone = feed(new_model(kernels), [[n if at == line else 0 for at, n in enumerate(LENGTHS)]])
        for place, row in alone.items():
            assert np.array_equal(together[place], row), place


def test_a_half_finished_answer_sent_again_continues_with_the_same_bits(kernels: Kernels) -> None:
    first = feed(new_model(kernels), [[LENGTHS[0], 0, 0]])
    decoded = new_model(kernels)
    feed(decoded, [[100, 0, 0], *[[1, 0, 0]] * 20], sampled=False)
    # The next replica gets prompt and answer so far as one prompt, and finds its first 64 tokens in its own cache.
    replay = new_model(kernels)
    feed(replay, [[64, 0, 0]], sampled=False)
    spans, rows = [Span(0, 64, 57, 0)], TOKENS[0][64:121]
    answer = replay.forward(Batch(rows, np.arange(64, 121), spans, TABLES, np.array([56])))
    assert np.array_equal(answer[0], first[0, 120])
    table = TABLES[0, :7]  # blocks that are full
    assert np.array_equal(replay.cache.numpy()[table], decoded.cache.numpy()[table])


@pytest.mark.parametrize("steps", [WHOLE, CUT], ids=["whole", "cut"])
def test_rows_that_nobody_samples_leave_their_keys_and_values(kernels: Kernels, steps: list[list[int]]) -> None:
    silent, loud = new_model(kernels), new_model(kernels)
    feed(silent, steps, sampled=False)
    feed(loud, steps)
    assert np.array_equal(silent.cache.numpy(), loud.cache.numpy())


def test_some_sampled_rows_get_the_logits_of_all(kernels: Kernels) -> None:
    every = feed(new_model(kernels), WHOLE)
    spans, tokens = [Span(0, 0, 150, 0), Span(150, 0, 9, 1), Span(159, 0, 40, 2)], np.concatenate(TOKENS)
    at = np.concatenate([np.arange(n) for n in LENGTHS])
    answer = new_model(kernels).forward(Batch(tokens, at, spans, TABLES, np.array([149, 158, 170])))
    for row, place in zip(answer, [(0, 149), (1, 8), (2, 11)], strict=True):
        assert np.array_equal(row, every[place])


def test_a_poisoned_sequence_leaves_the_others_bits_alone(kernels: Kernels) -> None:
    healthy, model = feed(new_model(kernels), CUT), new_model(kernels)
    model.cache[torch.from_numpy(TABLES[1].astype(np.int64))] = torch.nan
    model._cache[TABLES[1, 5:]] = 0
    poisoned = feed(model, CUT)
    for place, row in healthy.items():
        assert place[0] == 1 or np.array_equal(poisoned[place], row)


def test_rounded_products_stay_near_the_exact_ones(kernels: Kernels) -> None:
    exact, rounded = (feed(new_model(kernels, exact=exact), WHOLE) for exact in (True, False))
    spread = np.std(np.stack(list(exact.values())))
    gaps = [np.max(np.abs(rounded[place] - row)) / spread for place, row in exact.items()]
    assert 1e-4 < max(gaps) < 0.2


def test_a_models_weights_are_kept_once(kernels: Kernels) -> None:
    weights = random_weights()
    raws = [weakref.ref(layer.query.raw) for layer in weights.layers] + [weakref.ref(weights.embedding.raw)]
    model = Llama(weights, Precision.FLOAT32, 40, 16, 256)
    model.use(kernels)
    del weights
    assert [raw() for raw in raws] == [None] * len(raws)


def test_no_call_of_the_model_compiles_anything(kernels: Kernels) -> None:
    from topmast_kernels.cpu import decoder

    for kv_dtype in (Precision.FLOAT32, Precision.FLOAT16):
        feed(new_model(kernels, kv_dtype), CUT)
    assert len(decoder.forward.signatures) == 1  # what load_all has compiled


def test_shapes_that_the_kernels_do_not_take_are_refused_by_name(kernels: Kernels) -> None:
    model = Llama(random_weights(), Precision.FLOAT32, 40, 8, 256)
    assert not model.compilable
    with pytest.raises(ValueError, match="leave it to torch"):
        model.use(kernels)
