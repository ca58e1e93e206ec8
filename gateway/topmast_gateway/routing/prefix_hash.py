"""What a prompt begins with, as a chain of block digests: equal digests mean an equal beginning up to there.

Token ids get the very digests that our engine gives its KV pages. Text gets digests of its own, because the gateway has
no tokeniser: a block of text is about as long as two pages. Pure; nothing here leaves the process.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

_BLOCK_BYTES = 256  # of text, or 32 token ids of 8 bytes: the page of topmast_server/engine/config.py
_PAGE_TOKENS = 32
_TEXT_TOKEN_BYTES = 4  # English
_TEXT_BLOCK_TOKENS = _BLOCK_BYTES // _TEXT_TOKEN_BYTES
_MOST_BLOCKS = 2048  # the rest of a longer prompt stays unhashed: what shares so much goes to the same pod anyway
_MOST_BYTES = _MOST_BLOCKS * _BLOCK_BYTES
_MOST_TEXTS = 8192  # turns and their parts; a body can have millions, and every stream waits while they are looked at
_DIGEST_BYTES = 16
# What changes the text that a chat template makes, and stands before the first turn.
_BEFORE_THE_TURNS = ("tools", "functions", "chat_template", "chat_template_kwargs", "documents")


@dataclass(frozen=True, slots=True)
class PrefixChain:
    """`blocks` are digests of ever longer beginnings, each `block_tokens` tokens beyond the one before it.

    `anchor` names the conversation: it is the same in every turn and differs between users of one system prompt. The
    first `opening` blocks lie before its end. A prompt without turns has no opening, and its anchor is all of it.
    `tokens` is the size of the whole prompt, estimated.
    """

    blocks: tuple[bytes, ...] = ()
    anchor: bytes = b""
    opening: int = 0
    tokens: int = 0
    block_tokens: int = _TEXT_BLOCK_TOKENS


EMPTY_CHAIN: Final = PrefixChain()


def prefix_chain(fields: Mapping[str, Any]) -> PrefixChain:
    """The chain of a request's prompt; an empty one where there is nothing to share."""
    salt = fields.get("cache_salt")
    root = _root(salt if isinstance(salt, str) else "")
    try:
        if isinstance(messages := fields.get("messages"), list):
            return _chat(root, fields, messages)
        prompt = fields.get("prompt")
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            prompt = prompt[0]  # several prompts in one request go to one pod: the first decides
        if isinstance(prompt, str):
            text = _utf8(prompt[:_MOST_BYTES])
            return _chain(root, text, 0, len(prompt) // _TEXT_TOKEN_BYTES, _TEXT_BLOCK_TOKENS)
        if isinstance(prompt, list) and prompt:
            ids = array("q", prompt[: _MOST_BLOCKS * _PAGE_TOKENS]).tobytes()
            return _chain(root, ids, 0, len(prompt), _PAGE_TOKENS)
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # nonsense, which the engine will refuse by name
    return EMPTY_CHAIN


def session_digest(named: bytes) -> bytes:
    """A caller's `x-session-id` as a key for routing: it says which requests belong together, never who asks."""
    return blake2b(named, digest_size=_DIGEST_BYTES, person=b"session").digest() if named else b""


def _chat(root: bytes, fields: Mapping[str, Any], messages: list[Any]) -> PrefixChain:
    """The turns as text, in order. The conversation is named by everything up to its first user's turn."""
    if head := {name: fields[name] for name in _BEFORE_THE_TURNS if fields.get(name)}:
        root = blake2b(root + json.dumps(head, sort_keys=True).encode(), digest_size=_DIGEST_BYTES).digest()
    parts: list[bytes] = []
    size, opening = 0, 0
    for message in messages[:_MOST_TEXTS]:
        role = message.get("role") if isinstance(message, dict) else None
        for text in islice(_turn(message), _MOST_TEXTS - len(parts)):
            parts.append(text)
            size += len(text)
        if role == "user" and not opening:
            opening = size
        if size > _MOST_BYTES or len(parts) == _MOST_TEXTS:
            break
    return _chain(root, b"".join(parts), opening or size, size // _TEXT_TOKEN_BYTES, _TEXT_BLOCK_TOKENS)


def _chain(root: bytes, data: bytes, opening_bytes: int, tokens: int, block_tokens: int) -> PrefixChain:
    """Digests of the full blocks, each over the digest before it and its own bytes; the anchor is the opening's."""
    blocks, parent = [], root
    end = min(len(data), _MOST_BYTES)
    for start in range(0, end - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        parent = blake2b(parent + data[start : start + _BLOCK_BYTES], digest_size=_DIGEST_BYTES).digest()
        blocks.append(parent)
    end = min(end, opening_bytes or end)
    full = end // _BLOCK_BYTES
    last = (blocks[full - 1] if full else root) + data[full * _BLOCK_BYTES : end]
    anchor = blake2b(last, digest_size=_DIGEST_BYTES, person=b"anchor").digest()
    return PrefixChain(tuple(blocks), anchor, full if opening_bytes else 0, tokens, block_tokens)


def _turn(message: Any) -> Iterator[bytes]:
    """One message: its role, its content, and whatever else it has."""
    if not isinstance(message, dict):
        return
    yield _utf8(f"\n{message.get('role')}\n")
    content = message.get("content")
    if isinstance(content, str):
        yield _utf8(content[:_MOST_BYTES])
    for part in content if isinstance(content, list) else ():
        text = part.get("text") if isinstance(part, dict) else None
        yield _utf8(text[:_MOST_BYTES]) if isinstance(text, str) else json.dumps(part).encode()
    if rest := {name: value for name, value in message.items() if name not in ("role", "content") and value}:
        yield json.dumps(rest, sort_keys=True).encode()


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # JSON may carry half a pair


def _root(salt: str) -> bytes:
    # As in topmast_server/engine/tables.py: no salt can be chosen that continues somebody else's chain.
    return blake2b(_utf8(salt), digest_size=_DIGEST_BYTES, person=b"cache salt").digest()
