"""Text grows by whole characters, whatever the tokens cut in pieces."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from topmast_server.api.detokenize import Detokenizer, Vocabulary


def byte_tokenizer() -> Tokenizer:
    """One token per byte: every character beyond ASCII is cut in pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<think>")])
    return tokenizer


TOKENIZER = byte_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)


def pieces(token_ids: list[int], vocabulary: Vocabulary = VOCABULARY) -> list[str]:
    text = Detokenizer(vocabulary)
    return [*(text.push(token_id) for token_id in token_ids), text.flush()]


@given(st.text(max_size=50))
def test_any_text_survives_token_by_token(text: str) -> None:
    shown = pieces(TOKENIZER.encode(text, add_special_tokens=False).ids)
    assert "".join(shown) == text
    if "�" not in text:
        assert not any("�" in piece for piece in shown)


def test_an_emoji_appears_whole_with_its_last_byte() -> None:
    assert pieces(TOKENIZER.encode("🦙").ids) == ["", "", "", "🦙", ""]


def test_a_character_cut_off_by_the_end_shows_as_one_replacement() -> None:
    assert pieces(TOKENIZER.encode("🦙").ids[:3]) == ["", "", "", "�"]


def test_random_bytes_never_raise_and_equal_the_usual_decoding() -> None:
    source = random.Random(7)
    for _ in range(50):
        raw = source.randbytes(20)
        ids = [TOKENIZER.token_to_id(spelling) for spelling in spell(raw)]
        assert "".join(pieces(ids)) == raw.decode("utf-8", "replace")


def spell(raw: bytes) -> list[str]:
    by_byte = {VOCABULARY.bytes_of(i): TOKENIZER.id_to_token(i) for i in range(256)}
    return [by_byte[bytes([byte])] for byte in raw]


def test_control_tokens_and_unknown_ids_show_nothing_and_added_words_show_as_they_are() -> None:
    end, think = TOKENIZER.token_to_id("<|end|>"), TOKENIZER.token_to_id("<think>")
    assert pieces([end, think, 99_999]) == ["", "<think>", "", ""]


def test_sentencepiece_spelling_of_spaces_and_bytes() -> None:
    vocab = {"▁Paris": 0, "<0xF0>": 1, "<0x9F>": 2, "<0xA6>": 3, "<0x99>": 4, "<unk>": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert pieces([0, 1, 2, 3, 4], Vocabulary(tokenizer)) == [" Paris", "", "", "", "🦙", ""]


@pytest.mark.parametrize("count", [1, 7])
def test_the_longest_token_bounds_how_short_a_tokenised_text_can_be(count: int) -> None:
    text = "<|end|>" * count
    assert len(TOKENIZER.encode(text).ids) >= len(text) // VOCABULARY.longest_token_bytes()
