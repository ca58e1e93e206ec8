"""How GGUF files have their text split: as transformers does where it knows the rule, and as the patterns say."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from topmast_server.weights.pre_tokenizers import names, patterns_of, pre_tokenizer

TEXTS = (
    "Hello, World!  It's 12345 o'clock; I'LL see you'd\t\tnot \n\n  now\r\n x",
    "camelCase HTTPServer ÀÉî ǅungla Straße naïve cafe\u0301 e\u0301E\u0301e",
    "東京タワーは333メートル。北京 서울 ㄱㄴ ㄅㄆ ไทย हिन्दी العربية 123٤٥٦",
    "f(x)=a_b[0]//2**8 != <|im_start|> $5.00+10% ~`^ #tag @me http://x.y/z?q=1&r=2",
    "    indented\n\tcode  \n\n\n trailing   ",
    "🙂🙃 👩‍👩‍👧 \u200b\ufeff\u00a0\u3000 …—“quoted”",
    "<sentinel:12>IMGIMGABCZ ends. 1,234,567 and 12345678",
)
LETTERS = "aZéÉǅßſ\u0301हि字かア가ㄱ١1²½Ⅷ_'’\"sStTlLdD.,;:!?/\\-+=<>$^`|()[]{}#@ \t\n\r\u00a0\u3000\u200b🙂"
ANY = st.characters(exclude_categories=("Cs",))
INTERESTING = st.text(st.sampled_from(LETTERS) | ANY, max_size=40)


def pieces(name: str, text: str) -> list[str]:
    """The words that a rule makes of a text."""
    rule = pre_tokenizer(name)
    assert rule is not None
    return [text[begin:end] for _, (begin, end) in rule.split.pre_tokenize_str(text)]


def cut(pattern: str, text: str) -> list[str]:
    """What a pattern matches, and what lies between, by another engine of regular expressions."""
    found, end = [], 0
    for match in regex.finditer(pattern, text, regex.MULTILINE):
        found += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in (*found, text[end:]) if piece]


@pytest.mark.parametrize("name", sorted(GGUF_PRE_TOKENIZER_SPLITS))
def test_a_text_is_split_as_transformers_splits_it(name: str) -> None:
    theirs = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), behavior="isolated")
    for text in TEXTS:
        expected = [piece for piece, _ in theirs.pre_tokenize_str(text)]
        assert pieces(name, text) == expected


@pytest.mark.parametrize("name", names())
def test_a_rule_cuts_what_the_one_before_it_left(name: str) -> None:
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(INTERESTING)
    def check(text: str) -> None:
        expected = [text] if text else []
        for pattern in patterns_of(name):
            expected = [part for piece in expected for part in cut(pattern, piece)]
        assert pieces(name, text) == expected

    for text in TEXTS:
        check.hypothesis.inner_test(text)
    check()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("gpt-2", "it's 1234 x", ["it", "'s", " 1234", " x"]),
        ("smollm", "it's 12", ["it", "'s", " ", "1", "2"]),
        ("llama-bpe", "IT'S 1234\n\n x", ["IT", "'S", " ", "123", "4", "\n\n", " x"]),
        ("qwen2", "a 123", ["a", " ", "1", "2", "3"]),
        ("default", "a+b 12345", ["a", "+", "b", " ", "123", "45"]),
        ("falcon", "`a` 12345", ["`", "a", "`", " ", "123", "45"]),
        ("tekken", "camelCase 12", ["camel", "Case", " ", "1", "2"]),
        ("gpt-4o", "camelCase's 1234", ["camel", "Case's", " ", "123", "4"]),
        ("deepseek-v3", "東京x 1234", ["東京", "x", " ", "123", "4"]),
        ("deepseek-coder", "ab, 12\n", ["ab", ",", " ", "1", "2", "\n"]),
        ("bloom", "one, two", ["one", ",", " two"]),
        ("viking", "one2, two", ["one", "2", ",", " two"]),
        ("jais-2", "a          b", ["a", "        ", " ", " b"]),
        ("tiny_aya", "1234567", ["1", "234", "567"]),
    ],
)
def test_what_a_rule_is_for(name: str, text: str, expected: list[str]) -> None:
    assert pieces(name, text) == expected


def test_an_unknown_rule_is_none() -> None:
    assert pre_tokenizer("kimi-k2") is None and pre_tokenizer("") is None
