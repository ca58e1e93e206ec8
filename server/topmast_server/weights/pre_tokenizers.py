r"""How byte-level BPE splits text into words before it merges: the rules that a GGUF file names in tokenizer.ggml.pre.

A rule is a list of patterns. Each splits the pieces that those before it left, into what it matches and what lies
between. The names are llama.cpp's (src/llama-vocab.cpp), the patterns those of the models' own tokenizer.json. Not
here: rules that no pattern says (kimi-k2, afmoe, superbpe), and those of tokenizers that know no bytes (gemma4,
sarvam-moe, whitespace).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Regex, normalizers, pre_tokenizers

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SYMBOLS_OR_SLASHES: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"  # or without case
_BEFORE: Final = r"[^\r\n\p{L}\p{N}]?"
_DIGIT, _UP_TO_3_DIGITS = r"\p{N}", r"\p{N}{1,3}"
_CJK, _CJK_AND_KANA = r"[一-龥ࠀ-一가-퟿]+", r"[一-龥぀-ゟ゠-ヿ]+"
_SYMBOL_AND_WORD: Final = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2: Final = f"{_CONTRACTIONS}|{_WORD}|{_DIGIT}|{_SYMBOLS}|{_SPACES}"
_NO_PUNCTUATION: Final = r" ?[^(\s|.,!?…。，、।۔،)]+"
_LONG_SPACES: Final = "|".join([rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4)])


def _by_case(after: str, digits: str) -> str:
    """Words that end where lower case is followed by upper case, each with what may stand `after` it."""
    words = f"{_BEFORE}{_UPPER}*{_LOWER}+{after}|{_BEFORE}{_UPPER}+{_LOWER}*{after}"
    return f"{words}|{digits}|{_SYMBOLS_OR_SLASHES}|{_SPACES}"


_GPT_4O: Final = _by_case(f"{_CONTRACTIONS}?", _UP_TO_3_DIGITS)

_PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (_DIGIT, _GPT2),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "llama-bpe": (f"{_CONTRACTIONS}|{_WORD}|{_UP_TO_3_DIGITS}|{_SYMBOLS}|{_SPACES}",),
    "qwen2": (_QWEN2,),
    "qwen35": (
        rf"{_CONTRACTIONS}|{_BEFORE}[\p{{L}}\p{{M}}]+|{_DIGIT}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
    ),
    "laguna": (r"[^\n]+|[\n]+", _QWEN2),
    "ufakzeka": (f"{_WORD}|{_DIGIT}|{_SYMBOLS}|{_SPACES}",),
    "minicpm5": (_UP_TO_3_DIGITS, rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"),
    "jais-2": (
        rf"{_CONTRACTIONS}|{_WORD}|{_UP_TO_3_DIGITS}|{_SYMBOLS}|\s*[\r\n]+|{_LONG_SPACES}|\s{{1,2}}(?!\S)|\s{{1}}",
    ),
    "seed-coder": (rf"{_CONTRACTIONS}|{_WORD}|{_DIGIT}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",),
    "bailingmoe": (
        rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|{_DIGIT}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "exaone-moe": (
        rf"{_CONTRACTIONS}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|{_DIGIT}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "tekken": (_by_case("", _DIGIT),),
    "gpt-4o": (_GPT_4O,),
    "tiny_aya": (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT_4O),
    "youtu": (
        rf"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|{_CJK_AND_KANA}",
        _by_case(f"{_CONTRACTIONS}?", _DIGIT),
    ),
    "bloom": (_NO_PUNCTUATION,),
    "viking": (_NO_PUNCTUATION, _DIGIT),
    "chameleon": (
        "<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", r"[\t\n]|    |  ", _DIGIT, r"[\p{P}!-/:-@\[-`{-~]", _GPT2,
    ),
    "deepseek-llm": (
        r"[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _CJK, r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _DIGIT),
    "deepseek-v3": (
        _UP_TO_3_DIGITS, _CJK_AND_KANA, rf"{_SYMBOL_AND_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
    ),
    "spark2_5": (
        _UP_TO_3_DIGITS, _CJK_AND_KANA, rf"{_SYMBOL_AND_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+", _DIGIT,
    ),
}  # fmt: skip

_SAME: Final[dict[str, tuple[str, ...]]] = {  # other names of a rule
    "gpt-2": (
        *("phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat", "a.x-4.0", "mellum"),
        *("modern-bert", "roberta-bpe", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code"),
    ),
    "smollm": ("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "llama-bpe": (
        *("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        *("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
    ),
    "qwen2": ("stablelm2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2"),
    "gpt-4o": ("llama4", "kanana2", "talkie", "minimax-m2"),
    "tiny_aya": ("cohere2moe",),
    "bloom": ("poro-chat", "gpt3-finnish"),
    "bailingmoe": ("bailingmoe2", "llada-moe"),
    "deepseek-v3": ("hunyuan-dense", "joyai-llm", "hy_v4"),
}
_RULE_OF: Final = {name: name for name in _PATTERNS} | {
    other: name for name, others in _SAME.items() for other in others
}
_LLAMA_3: Final = {
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
}
# Words that are tokens as a whole are taken as they are, whatever the merges would make of them.
_IGNORE_MERGES: Final = _LLAMA_3 | {"tekken", "youtu"}
_ADD_BOS: Final = _LLAMA_3 | {"tekken", "chameleon"}  # where the file does not say
_COMPOSED: Final = {"qwen2", "deepseek-r1-qwen", "qwen35"}  # their tokenizers begin with Unicode's NFC


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """`split` and `normalizer` are tokenizers' own; the normalizer is None where the text is taken as it is."""

    split: Any
    normalizer: Any
    ignore_merges: bool
    add_bos: bool


def pre_tokenizer(name: str) -> PreTokenizer | None:
    """The rule of this name; None where there is none."""
    if name not in _RULE_OF:
        return None
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in _PATTERNS[_RULE_OF[name]]]
    split = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    normalizer = normalizers.NFC() if name in _COMPOSED else None
    return PreTokenizer(split, normalizer, name in _IGNORE_MERGES, name in _ADD_BOS)


def names() -> list[str]:
    """Of all rules."""
    return sorted(_RULE_OF)


def patterns_of(name: str) -> tuple[str, ...]:
    """What the rule of this name splits by, in order."""
    return _PATTERNS[_RULE_OF[name]]
