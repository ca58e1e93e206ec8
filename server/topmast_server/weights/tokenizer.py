"""The tokenizer, its special tokens and the chat template of a model file, without torch.

From GGUF metadata or from tokenizer.json. What it encodes must equal transformers token for token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from topmast_server.weights.chat_template import template_of_directory, template_of_gguf
from topmast_server.weights.errors import corrupt, not_found, unsupported
from topmast_server.weights.gguf import GGUFFile, read_gguf
from topmast_server.weights.gguf_bpe import byte_level, sentencepiece, strings
from topmast_server.weights.json_files import read_json, stop_ids_of, unreadable

_CONTROL, _USER_DEFINED = 3, 4  # GGUF token types
# Control tokens that end an answer under whatever name the metadata knows them; many files name only one of several.
_ENDINGS = {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|eom_id|>", "<end_of_turn>", "</s>"}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_TRIAL = "Hello, 1 World of 世界"  # letters of both cases, a digit, and bytes that are no letters of their own


@dataclass(frozen=True, slots=True)
class ModelTokenizer:
    """Everything about text that a model file says. `tokenizer` may be used for streaming decodes."""

    tokenizer: Tokenizer
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    bos_id: int | None
    stop_token_ids: tuple[int, ...]  # any of them ends an answer
    add_bos: bool  # whether plain prompts begin with bos_id; rendered chat templates bring their own
    vocab_size: int
    rows: int | None  # of the model's embedding, where its file tells: ids must be below

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of `text`; markers such as <|im_start|> become their one id."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special).ids
        if add_special and self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of complete tokens; an incomplete UTF-8 character becomes U+FFFD."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special))


def load_tokenizer(path: Path) -> ModelTokenizer:
    """From a .gguf file or a model directory. Raises ModelError."""
    return _from_directory(path) if path.is_dir() else from_gguf(read_gguf(path))


def try_out(tokenizer: ModelTokenizer, path: Path) -> None:
    """A short text must come back from its tokens, and the model must have them.

    Raises ModelError(ModelCorrupt): the tokenizer is broken, or another model's.
    """
    ids = tokenizer.encode(_TRIAL, add_special=False)
    back = tokenizer.decode(ids)
    if back.strip() != _TRIAL:
        raise corrupt(f"the tokenizer of {path} turns {_TRIAL!r} into {back[:100]!r}; fetch the model's files again.")
    if tokenizer.rows is not None and max(ids) >= tokenizer.rows:
        raise corrupt(
            f"the tokenizer of {path} gives token {max(ids)}, but the model has {tokenizer.rows} tokens only; "
            "fetch tokenizer and weights of the same model."
        )


def stop_ids(file: GGUFFile) -> tuple[int, ...]:
    """The ids that end an answer, as far as scalar metadata tells; needs no token list."""
    found = (file.metadata.get(f"tokenizer.ggml.{key}") for key in _END_KEYS)
    return tuple(sorted({value for value in found if isinstance(value, int)}))


def from_gguf(file: GGUFFile) -> ModelTokenizer:
    """Build the tokenizer that the metadata describes."""
    model = file.metadata.get("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise unsupported(
            f"{file.path} has a {model!r} tokenizer; byte-level BPE ('gpt2') and SentencePiece's ('llama') are read "
            "from GGUF. Use the model's safetensors directory with its tokenizer.json."
        )
    tokens: list[str] = strings(file, "tokenizer.ggml.tokens")
    types = file.metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        raise corrupt(f"{file.path} names {len(tokens)} tokens, but not as many types; fetch the model file again.")
    found = byte_level(file, tokens) if model == "gpt2" else sentencepiece(file, tokens, types)
    tokenizer, vocabulary = found.tokenizer, {token: index for index, token in enumerate(tokens)}
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in added if k == _CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t, k in added if k == _USER_DEFINED])
    ends = set(stop_ids(file)) | {vocabulary[t] for t, kind in added if kind == _CONTROL and t in _ENDINGS}
    bos, eos = (_token_id(file, f"tokenizer.ggml.{name}_token_id", len(tokens)) for name in ("bos", "eos"))
    embedding = file.tensors.get("token_embd.weight")
    return ModelTokenizer(
        tokenizer=tokenizer,
        chat_template=template_of_gguf(file.metadata, file.path),
        bos_token=None if bos is None else tokens[bos],
        eos_token=None if eos is None else tokens[eos],
        bos_id=bos,
        stop_token_ids=tuple(sorted(end for end in ends if 0 <= end < len(tokens))),
        add_bos=bool(file.metadata.get("tokenizer.ggml.add_bos_token", found.add_bos)),
        vocab_size=len(tokens),
        rows=embedding.shape[0] if embedding is not None else None,
    )


def _token_id(file: GGUFFile, key: str, count: int) -> int | None:
    value = file.metadata.get(key)
    return value if isinstance(value, int) and 0 <= value < count else None


def _from_directory(folder: Path) -> ModelTokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise not_found(
            f"{path} does not exist; a model directory needs config.json, tokenizer.json and *.safetensors."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise unreadable(path, error) from error
    settings = read_json(folder / "tokenizer_config.json", optional=True)
    generation = read_json(folder / "generation_config.json", optional=True)
    config = read_json(folder / "config.json")
    eos_token, bos_token = _token_text(settings.get("eos_token")), _token_text(settings.get("bos_token"))
    ends = stop_ids_of(config, generation)
    for token in {eos_token, *_ENDINGS} - {None}:
        found = tokenizer.token_to_id(str(token))
        if found is not None and (token == eos_token or found in tokenizer.get_added_tokens_decoder()):
            ends |= {found}
    return ModelTokenizer(
        tokenizer=tokenizer,
        chat_template=template_of_directory(folder, settings),
        bos_token=bos_token,
        eos_token=eos_token,
        bos_id=tokenizer.token_to_id(bos_token) if bos_token else None,
        stop_token_ids=tuple(sorted(ends)),
        add_bos=False,  # tokenizer.json's own post-processor adds it where it belongs
        vocab_size=tokenizer.get_vocab_size(),
        rows=rows if isinstance(rows := config.get("vocab_size"), int) else None,
    )


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
