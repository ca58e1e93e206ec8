"""The two kinds of BPE in GGUF files, as tokenizers' objects: byte-level ("gpt2"), and SentencePiece's ("llama").

Special tokens, templates and ids are tokenizer.py's business.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, normalizers

from topmast_server.weights.errors import corrupt, unsupported
from topmast_server.weights.gguf import GGUFFile
from topmast_server.weights.pre_tokenizers import PreTokenizer, pre_tokenizer

log = logging.getLogger(__name__)

_SPACE: Final = "▁"  # as SentencePiece writes one
_NORMAL, _UNKNOWN = 1, 2  # GGUF token types
_LONGEST_PIECE: Final = 256  # in characters, that merges are looked for; SentencePiece makes none above 64 by itself


@dataclass(frozen=True, slots=True)
class GGUFTokenizer:
    """`add_bos`: whether plain prompts begin with the token for it where the file does not say."""

    tokenizer: Tokenizer
    add_bos: bool


def byte_level(file: GGUFFile, tokens: Sequence[str]) -> GGUFTokenizer:
    """Merges from the file, and the text split by the rule that it names."""
    pre = _pre_tokenizer(file)
    merges = [tuple(merge.split(" ", 1)) for merge in strings(file, "tokenizer.ggml.merges")]
    model = _bpe(file, tokens, merges, ignore_merges=pre.ignore_merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre.split
    if pre.normalizer is not None:
        tokenizer.normalizer = pre.normalizer
    tokenizer.decoder = decoders.ByteLevel()
    return GGUFTokenizer(tokenizer, pre.add_bos)


def sentencepiece(file: GGUFFile, tokens: Sequence[str], types: Sequence[int]) -> GGUFTokenizer:
    """Merges from the tokens' scores: the pair goes first that makes the token with the best one.

    Text is not split, and every part of it between special tokens begins with a space, unless the file says otherwise.
    Characters that are no tokens become bytes.
    """
    scores = file.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise corrupt(f"{file.path} names {len(tokens)} tokens, but not as many scores; fetch the model file again.")
    ranked = {
        token: score
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind == _NORMAL and len(token) <= _LONGEST_PIECE and isinstance(score, float | int) and score == score
    }
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    tokenizer = Tokenizer(_bpe(file, tokens, merges_of(ranked), unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", _SPACE)
    plain = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        tokenizer.decoder = decoders.Sequence([*plain, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer = spaces
        tokenizer.decoder = decoders.Sequence(plain)
    return GGUFTokenizer(tokenizer, add_bos=True)


def merges_of(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The pairs of tokens that make a token, the best score first."""
    pairs = [
        (score, token[:end], token[end:])
        for token, score in scores.items()
        for end in range(1, len(token))
        if token[:end] in scores and token[end:] in scores
    ]
    pairs.sort(key=lambda pair: (-pair[0], len(pair[1])))  # of one token's pairs the one that begins with less
    return [(left, right) for _, left, right in pairs]


def strings(file: GGUFFile, key: str) -> list[str]:
    """A list of strings that the file must have."""
    value = file.metadata.get(key)
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise corrupt(f"{file.path} has no {key}; fetch the model file again.")
    return value


def _bpe(file: GGUFFile, tokens: Sequence[str], merges: Sequence[tuple[str, ...]], **options: Any) -> models.BPE:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        return models.BPE(vocabulary, merges, **options)  # type: ignore[arg-type]
    except Exception as error:  # the library raises plain Exception for a merge that is not in the vocabulary
        raise corrupt(f"{file.path} has a broken token list: {error}; fetch the model file again.") from error


def _pre_tokenizer(file: GGUFFile) -> PreTokenizer:
    """How text is split before merging."""
    name = file.metadata.get("tokenizer.ggml.pre")
    if name is None:
        log.warning(
            "%s does not say how its text is split (tokenizer.ggml.pre), so it is split as llama.cpp does then, which "
            "is not how most models were trained: convert the model anew",
            file.path,
        )
        name = "default"
    if (found := pre_tokenizer(str(name))) is None:
        raise unsupported(
            f"{file.path} splits text by the rule {name!r}, which is not known here. Use the model's safetensors "
            "directory with its tokenizer.json."
        )
    return found
