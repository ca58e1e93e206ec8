"""GGUF files: a good one is read exactly, and a bad one is refused with a sentence, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topmast_kernels.cpu.formats import Format
from topmast_server.weights.errors import ModelError
from topmast_server.weights.files import Place
from topmast_server.weights.gguf import read_gguf
from topmast_server.weights.load import load_weights, outline_weights
from topmast_server.weights.matrix import Matrix
from topmast_server.weights.same_weights import AS_Q8_0, as_q8_0
from topmast_server.weights.tokenizer import from_gguf, load_tokenizer

HIDDEN, MLP, HEADS, KV_HEADS, TOKENS, LAYERS = 64, 96, 4, 2, 48, 1
CODES = {"ModelNotFound", "ModelCorrupt", "ModelUnsupported", "OutOfMemory"}
Q = gguf.GGMLQuantizationType


def write_model(path: Path, kind: gguf.GGMLQuantizationType = Q.Q4_1, **changes: object) -> dict[str, np.ndarray]:
    """A small Llama with random weights, by gguf's own writer; the float weights it stands for."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, str(changes.get("architecture", "llama")))
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    letters = [chr(ord("a") + index) for index in range(26)]
    words = ["<|end|>", *letters, "ab", "abc", *(f"<{index}>" for index in range(TOKENS - 29))]
    writer.add_tokenizer_model("gpt2")
    if pre := str(changes.get("pre", "smollm")):
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL, *([gguf.TokenType.NORMAL] * (len(words) - 1))])
    writer.add_token_merges(changes.get("merges", ["a b", "ab c"]))  # type: ignore[arg-type]
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    if "parts" in changes:
        writer.add_uint16("split.count", changes["parts"])  # type: ignore[arg-type]
    meant: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, matrix: bool = True) -> None:
        values = rng.standard_normal(shape).astype(np.float32)
        if not matrix or kind == Q.F32:
            writer.add_tensor(name, values)
        else:
            stored = gguf.quantize(values, kind)
            writer.add_tensor(name, stored, raw_dtype=kind)
            values = gguf.dequantize(stored, kind)
        meant[name] = values

    add("token_embd.weight", TOKENS, HIDDEN)
    wide, narrow = HIDDEN, HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        add(at + "attn_norm.weight", HIDDEN, matrix=False)
        add(at + "attn_q.weight", wide, HIDDEN)
        add(at + "attn_k.weight", narrow, HIDDEN)
        add(at + "attn_v.weight", narrow, HIDDEN)
        add(at + "attn_output.weight", HIDDEN, wide)
        add(at + "ffn_norm.weight", HIDDEN, matrix=False)
        add(at + "ffn_gate.weight", MLP, HIDDEN)
        add(at + "ffn_up.weight", MLP, HIDDEN)
        add(at + "ffn_down.weight", HIDDEN, MLP)
    add("output_norm.weight", HIDDEN, matrix=False)
    for name in changes.get("extra", ()):  # type: ignore[attr-defined]
        add(name, HIDDEN, matrix=False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def load(path: Path) -> None:
    load_tokenizer(path)
    load_weights(path, lambda done, total: None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_model(path)
    return path.read_bytes()


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q8_0])
def test_every_type_is_read_bit_for_bit_as_gguf_reads_it(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, remote: bool
) -> None:
    meant = write_model(tmp_path / "model.gguf", kind)
    seen: list[tuple[int, int]] = []
    place = Place("nfs4" if remote else "ext4", remote)
    weights = load_weights(tmp_path / "model.gguf", lambda done, total: seen.append((done, total)), place)
    layer = weights.layers[0]
    pairs = {
        "token_embd.weight": weights.embedding,
        "blk.0.attn_q.weight": layer.query,
        "blk.0.attn_k.weight": layer.key,
        "blk.0.ffn_down.weight": layer.down,
    }
    for name, matrix in pairs.items():
        assert np.array_equal(matrix.dense(), meant[name]), name
    assert np.array_equal(weights.final_norm, meant["output_norm.weight"])
    assert weights.head is weights.embedding
    assert weights.stop_ids == (0,)
    size = (tmp_path / "model.gguf").stat().st_size
    assert seen[0] == (0, size) and seen[-1] == (size, size)


@pytest.mark.parametrize("kind", [Q.Q5_0, Q.IQ4_NL])
def test_what_is_read_as_q8_0_has_the_same_weights(kind: gguf.GGMLQuantizationType) -> None:
    rng = np.random.default_rng(0)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (7, 5 * block_bytes), np.uint8)
    scales = rng.standard_normal((7, 5)).astype(np.float16)
    raw.reshape(7, 5, block_bytes)[:, :, :2] = scales.view(np.uint8).reshape(7, 5, 2)
    found = Matrix(Format.Q8_0, as_q8_0(raw, kind.name), 7, 160).dense()
    assert np.array_equal(found, gguf.dequantize(raw, kind))
    assert kind.name in AS_Q8_0 and len(AS_Q8_0) == 2


def test_its_tokenizer_merges_and_keeps_markers_whole(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf")
    tokenizer = load_tokenizer(tmp_path / "model.gguf")
    assert tokenizer.encode("abcab<|end|>") == [28, 27, 0]
    assert tokenizer.stop_token_ids == (0,)
    assert tokenizer.chat_template == "{{ messages[0].content }}"


def test_a_file_that_does_not_say_how_its_text_is_split_is_split_as_llama_cpp_does_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was split as GPT-2's, without a word."""
    write_model(tmp_path / "model.gguf", pre="")
    load_tokenizer(tmp_path / "model.gguf")
    assert "tokenizer.ggml.pre" in caplog.text and "convert the model anew" in caplog.text


def test_whole_words_skip_the_merges_where_the_rule_says_so(tmp_path: Path) -> None:
    """No merge makes "abc", which is a token: alone it is one all the same."""
    for pre, expected in (("llama-bpe", [28]), ("qwen2", [27, 3])):
        write_model(tmp_path / "model.gguf", pre=pre, merges=["a b"])
        assert load_tokenizer(tmp_path / "model.gguf").encode("abc", add_special=False) == expected


def test_composed_text_is_what_qwen_was_trained_on(tmp_path: Path) -> None:
    for pre, same in (("qwen2", True), ("llama-bpe", False)):
        write_model(tmp_path / "model.gguf", pre=pre)
        tokenizer = load_tokenizer(tmp_path / "model.gguf").tokenizer
        normalized = "e\u0301" if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str("e\u0301")
        assert (normalized == "\u00e9") is same


def test_a_rule_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf", pre="kimi-k2")
    with pytest.raises(ModelError, match=r"'kimi-k2', which is not known here. Use the model's safetensors") as caught:
        load_tokenizer(tmp_path / "model.gguf")
    assert caught.value.code == "ModelUnsupported"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ModelError, match=r"/nowhere/model\.gguf does not exist; give") as caught:
        load(Path("/nowhere/model.gguf"))
    assert caught.value.code == "ModelNotFound"


def test_every_truncation_is_refused(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 200, 7), *range(200, len(small), 997), len(small) - 1]:
        path.write_bytes(small[:length])
        with pytest.raises(ModelError) as caught:
            load(path)
        assert caught.value.code == "ModelCorrupt", length
        assert "again" in caught.value.message


def test_k_quants_are_refused_by_name(tmp_path: Path, small: bytes) -> None:
    at = small.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    assert int.from_bytes(small[at : at + 4], "little") == int(Q.Q4_1)
    path = tmp_path / "k.gguf"
    path.write_bytes(small[:at] + (12).to_bytes(4, "little") + small[at + 4 :])
    with pytest.raises(ModelError, match=r"token_embd\.weight as Q4_K.*use a file of one of these types") as caught:
        load(path)
    assert caught.value.code == "ModelUnsupported"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "qwen2"}, "architecture 'qwen2'"),
        ({"extra": ["blk.0.attn_q.bias"]}, r"does not use, blk\.0\.attn_q\.bias"),
        ({"parts": 3}, "one part of several; join them"),
    ],
)
def test_other_architectures_are_refused(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    write_model(tmp_path / "model.gguf", **changes)
    with pytest.raises(ModelError, match=sentence) as caught:
        load_weights(tmp_path / "model.gguf", lambda done, total: None)
    assert caught.value.code == "ModelUnsupported"


def mutations(size: int) -> st.SearchStrategy[list[tuple[int, bytes]]]:
    """Mostly in the header, where counts, lengths and offsets are."""
    numbers = st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**12]).map(
        lambda value: value.to_bytes(8, "little")
    )
    place = st.one_of(st.integers(0, 4000), st.integers(0, size - 9))
    return st.lists(st.tuples(place, st.one_of(numbers, st.binary(min_size=1, max_size=4))), min_size=1, max_size=4)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_but_never_a_crash(
    tmp_path: Path, small: bytes, data: st.DataObject, limited_memory: Callable[[], None]
) -> None:
    limited_memory()
    damaged = bytearray(small)
    for at, change in data.draw(mutations(len(small))):
        damaged[at : at + len(change)] = change
    path = tmp_path / "damaged.gguf"
    path.write_bytes(bytes(damaged))
    told = served = None
    try:
        outline = outline_weights(path)
    except ModelError as error:
        told = error.message
    try:
        weights = load_weights(path, lambda done, total: None)
        assert (weights.bytes, weights.parameters) == (outline.bytes, outline.parameters)
        from_gguf(read_gguf(path))
    except ModelError as error:
        assert error.code in CODES
        assert len(error.message) > 20
        served = error.message
    assert told in (None, served), "a check of the headers says what the server says"


@pytest.fixture
def limited_memory() -> Callable[[], None]:
    """A huge allocation becomes an error instead of going unnoticed."""
    import tracemalloc

    tracemalloc.start()

    def check() -> None:
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 64 << 20, f"reading a small damaged file took {peak} bytes"

    yield check
    check()
    tracemalloc.stop()
