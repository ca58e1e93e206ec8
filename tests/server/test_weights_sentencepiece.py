"""SentencePiece's BPE from GGUF files: the tokens are those that sentencepiece makes, with a model that it trained."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path

import gguf
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from topmast_server.weights.errors import ModelError
from topmast_server.weights.gguf import read_gguf
from topmast_server.weights.gguf_bpe import merges_of
from topmast_server.weights.tokenizer import ModelTokenizer, from_gguf

Kind = gguf.TokenType
TEXT = (Path(__file__).parents[2] / "README.md").read_text() + (
    Path(__file__).parents[2] / "docs/operator.md"
).read_text()


@cache
def trained(add_dummy_prefix: bool = True) -> sentencepiece.SentencePieceProcessor:
    """As Llama 2's was: BPE, no normalisation, spaces kept, bytes for what is unknown."""
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=1000,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=add_dummy_prefix,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<think>"],
        control_symbols=["[INST]"],
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def kind_of(model: sentencepiece.SentencePieceProcessor, token: int) -> int:
    if model.is_unknown(token):
        return Kind.UNKNOWN
    if model.is_control(token):
        return Kind.CONTROL
    if model.is_byte(token):
        return Kind.BYTE
    return Kind.USER_DEFINED if model.id_to_piece(token) == "<think>" else Kind.NORMAL


def written(path: Path, model: sentencepiece.SentencePieceProcessor, **changes: object) -> ModelTokenizer:
    """The tokenizer of a GGUF file with this model, by gguf's own writer."""
    ids = range(model.get_piece_size())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([model.id_to_piece(token) for token in ids])
    writer.add_token_types([kind_of(model, token) for token in ids])
    if scores := changes.get("scores", [model.get_score(token) for token in ids]):
        writer.add_token_scores(scores)  # type: ignore[arg-type]
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    if "add_space_prefix" in changes:
        writer.add_add_space_prefix(bool(changes["add_space_prefix"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return from_gguf(read_gguf(path))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return written(tmp_path_factory.mktemp("sp") / "model.gguf", trained())


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        st.sampled_from("aeinorst ETA012.,:-_()'\"\n\t`é字🙂") | st.characters(exclude_categories=("Cs",)), max_size=60
    )
    | st.lists(st.sampled_from([*TEXT.split(), " ", "  ", "\n"]), max_size=12).map(" ".join)
)
def test_the_tokens_are_those_of_sentencepiece(tokenizer: ModelTokenizer, text: str) -> None:
    if "▁" in text or "<0x" in text:  # which its text cannot hold
        return
    expected = trained().encode(text)
    assert tokenizer.encode(text, add_special=False) == expected
    assert tokenizer.decode(expected, skip_special=False) == trained().decode(expected)


def test_a_long_text_as_well(tokenizer: ModelTokenizer) -> None:
    assert tokenizer.encode(TEXT, add_special=False) == trained().encode(TEXT)


def test_plain_prompts_begin_with_the_token_for_it_and_markers_stay_whole(tokenizer: ModelTokenizer) -> None:
    ids = tokenizer.encode("[INST] a <think>b")
    assert ids[0] == tokenizer.bos_id == trained().bos_id()
    assert ids[1] == trained().piece_to_id("[INST]") and trained().piece_to_id("<think>") in ids
    assert tokenizer.stop_token_ids == (trained().eos_id(),)
    assert "[INST]" not in tokenizer.decode(ids)


def test_a_file_may_say_that_no_space_comes_first(tmp_path: Path) -> None:
    tokenizer = written(tmp_path / "model.gguf", trained(add_dummy_prefix=False), add_space_prefix=False)
    for text in ("the operator", " the", "x", ""):
        assert tokenizer.encode(text, add_special=False) == trained(add_dummy_prefix=False).encode(text)


@pytest.mark.parametrize("scores", [[], [0.0]])
def test_a_file_without_a_score_for_each_token_is_refused(tmp_path: Path, scores: list[float]) -> None:
    with pytest.raises(ModelError, match="not as many scores") as caught:
        written(tmp_path / "model.gguf", trained(), scores=scores)
    assert caught.value.code == "ModelCorrupt"


def test_the_best_score_goes_first() -> None:
    scores = {"a": -9.0, "b": -8.0, "c": -7.0, "ab": -2.0, "bc": -1.0, "abc": -3.0}
    assert merges_of(scores) == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]
