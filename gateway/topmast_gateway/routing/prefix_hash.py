"""What a prompt begins with, as a chain of block digests: equal digests mean an equal beginning up to there.

Token ids get the very digests that our engine gives its KV pages. Text gets digests of its own, because the gateway has
no tokeniser: a block of text is about as long as two pages. Pure; nothing here leaves the process.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

_BLOCK_BYTES = 256  # of text, or 32 token ids of 8 bytes: the page of topmast_server/engine/config.py
_PAGE_TOKENS = 32
_TEXT_TOKEN_BYTES = 4  # English
_TEXT_BLOCK_TOKENS = _BLOCK_BYTES // _TEXT_TOKEN_BYTES
_MOST_BLOCKS = 2048  # the rest of a longer prompt stays unhashed: what shares so much goes to the same pod anyway
_MOST_BYTES = _MOST_BLOCKS * _BLOCK_BYTES
_MOST_TEXTS = 8192  # turns and their parts; a body can have millions, and every stream waits while they are looked at
_MOST_ITEMS = 65_536  # of a list that is decoded: a conversation has less, and a body of 8 MiB may have millions
_MOST_FIELDS = 131_072
_LONGEST_ID = 8  # of a token, with its comma
_DIGITS = frozenset((b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"-"))
_NULL = msgspec.Raw(b"null")
_NOTHING = frozenset((b"null", b"false", b"0", b"0.0", b'""', b"[]", b"{}"))
_LONGEST_NOTHING = 16
MOST_READ_BYTES = 2 * 1024 * 1024  # of a field: what is longer is looked at as bytes
_DIGEST_BYTES = 16
_text_decoder: Final = msgspec.json.Decoder(str)
_ids_decoder: Final = msgspec.json.Decoder(list[int])
_prompts_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
_objects_decoder: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
# What changes the text that a chat template renders, and stands before the first turn.
_BEFORE_THE_TURNS = ("tools", "functions", "chat_template", "chat_template_kwargs", "documents")
_NAMES_BEFORE = frozenset(_BEFORE_THE_TURNS)


class PrefixChain(msgspec.Struct, frozen=True):
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


def prefix_chain(fields: Mapping[str, bytes], salt: str = "") -> PrefixChain:
    """The chain of a request's prompt, from the JSON text of its fields; an empty one where there is nothing to share.

    Another `salt` makes another chain: what callers with different ones send is never taken for the same.
    """
    root = _root(salt)
    longest = max(fields.get("messages", b""), fields.get("prompt", b""), key=len)
    if len(longest) >= MOST_READ_BYTES:
        # Reading all of it would take long. Its text as it stands begins as that of the turns before it did.
        return _chain(root, longest[:_MOST_BYTES], 0, len(longest) // _TEXT_TOKEN_BYTES, _TEXT_BLOCK_TOKENS)
    try:
        if (messages := fields.get("messages", b"")).startswith(b"["):
            return _chat(root, fields, messages)
        return _prompt(root, fields.get("prompt", b""))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return EMPTY_CHAIN  # nonsense, which the engine will refuse by name


def session_digest(named: bytes) -> bytes:
    """A caller's `x-session-id` as a key for routing: it says which requests belong together, never who asks."""
    return blake2b(named, digest_size=_DIGEST_BYTES, person=b"session").digest() if named else b""


def _prompt(root: bytes, prompt: bytes) -> PrefixChain:
    """Of text, or of token ids. Several prompts in one request go to one pod: the first decides."""
    if prompt.startswith(b'"'):
        text = _text_decoder.decode(prompt)
        return _chain(root, _utf8(text[:_MOST_BYTES]), 0, len(text) // _TEXT_TOKEN_BYTES, _TEXT_BLOCK_TOKENS)
    if not prompt.startswith(b"["):
        return EMPTY_CHAIN
    commas = prompt.count(b",")
    if prompt[1:].lstrip()[:1] in _DIGITS:
        ids = array("q", _ids_decoder.decode(_front(prompt, commas))).tobytes()
        return _chain(root, ids[: _MOST_BLOCKS * _BLOCK_BYTES], 0, commas + 1, _PAGE_TOKENS)
    if commas > _MOST_ITEMS:
        return EMPTY_CHAIN
    prompts = _prompts_decoder.decode(prompt)
    first = bytes(prompts[0]) if prompts else b""
    return EMPTY_CHAIN if first.startswith(b"[[") else _prompt(root, first)


def _front(ids: bytes, commas: int) -> bytes:
    """A list of numbers that begins like this one and is not much longer than what is hashed of it."""
    most = _MOST_BLOCKS * _PAGE_TOKENS
    if commas <= 2 * most:
        return ids
    front = ids[: most * _LONGEST_ID]
    return front[: front.rindex(b",")] + b"]"


def _chat(root: bytes, fields: Mapping[str, bytes], messages: bytes) -> PrefixChain:
    """The turns as text, in order. The conversation is named by everything up to its first user's turn."""
    if not _NAMES_BEFORE.isdisjoint(fields):
        head = b"".join(name.encode() + fields[name] for name in _BEFORE_THE_TURNS if is_set(fields.get(name, b"")))
        root = blake2b(root + head, digest_size=_DIGEST_BYTES).digest() if head else root
    parts: list[bytes] = []
    size, opening = 0, 0
    for message in _objects(messages)[:_MOST_TEXTS]:
        turn = _turn(message)[: _MOST_TEXTS - len(parts)]
        parts += turn
        size += sum(map(len, turn))
        if not opening and bytes(message.get("role", _NULL)) == b'"user"':
            opening = size
        if size > _MOST_BYTES or len(parts) == _MOST_TEXTS:
            break
    return _chain(root, b"".join(parts), opening or size, size // _TEXT_TOKEN_BYTES, _TEXT_BLOCK_TOKENS)


def _objects(text: bytes) -> list[dict[str, msgspec.Raw]]:
    """A list of objects, their values unread. ValueError where it has more of them than any conversation."""
    if text.count(b"{") > _MOST_ITEMS or text.count(b":") > _MOST_FIELDS:
        raise ValueError
    return _objects_decoder.decode(text)


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


def _turn(message: Mapping[str, msgspec.Raw]) -> list[bytes]:
    """One message: its role, its content, and whatever else it has."""
    texts = [b"\n%b\n" % bytes(message.get("role", _NULL)), *_content(bytes(message.get("content", _NULL)))]
    for name in sorted(message):
        if name not in ("role", "content") and is_set(value := bytes(message[name])):
            texts.append(name.encode(errors="surrogatepass") + value)
    return texts


def _content(content: bytes) -> list[bytes]:
    """Text as it is, in one piece or in parts; anything else as its JSON."""
    if content.startswith(b'"'):
        return [_text(content)]
    try:
        parts = _objects(content)[:_MOST_TEXTS] if content.startswith(b"[") else []
    except (msgspec.MsgspecError, ValueError):
        parts = []
    if not parts and is_set(content):
        return [content[:_MOST_BYTES]]
    return [_part(part) for part in parts]


def _part(part: Mapping[str, msgspec.Raw]) -> bytes:
    """Its text, or all that it has."""
    text = bytes(part.get("text", _NULL))
    return _text(text) if text.startswith(b'"') else b"".join(name.encode() + bytes(part[name]) for name in part)


def _text(string: bytes) -> bytes:
    """What a JSON string says; one that says nothing valid stands for itself."""
    try:
        return _utf8(_text_decoder.decode(string)[:_MOST_BYTES])
    except msgspec.MsgspecError:
        return string[:_MOST_BYTES]


def is_set(value: bytes) -> bool:
    """Whether a field's JSON says something: it is neither absent nor null, false, 0 or empty."""
    return bool(value) and (len(value) > _LONGEST_NOTHING or value.translate(None, b" \t\r\n") not in _NOTHING)


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # JSON may carry half a pair


@lru_cache(1024)
def _root(salt: str) -> bytes:
    # As in topmast_server/engine/tables.py: no salt can be chosen that continues somebody else's chain.
    return blake2b(_utf8(salt), digest_size=_DIGEST_BYTES, person=b"cache salt").digest()
