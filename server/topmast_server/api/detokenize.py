"""Token ids to text, one at a time, without ever showing half of a character.

Works on bytes: a token may be a fragment of a UTF-8 character, so bytes are collected until a character is whole.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from tokenizers import Tokenizer

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class Vocabulary:
    """The bytes behind each token id. Control tokens have none: they are never shown."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._bytes: dict[int, bytes] = {
            token_id: b"" if token.special else token.content.encode() for token_id, token in added.items()
        }
        decoder = tokenizer.decoder
        state = b"" if decoder is None else decoder.__getstate__()
        self._byte_level = b'"ByteLevel"' in state

    def bytes_of(self, token_id: int) -> bytes:
        """What the token adds to the text; nothing for ids beyond the vocabulary (padded embedding rows)."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._tokenizer.id_to_token(token_id)
            known = b"" if token is None else self._decode(token)
            self._bytes[token_id] = known
        return known

    def longest_token_bytes(self) -> int:
        """How much prompt text one token can cover at most: text longer than context times this never fits."""
        return max((len(token.encode()) for token in self._tokenizer.get_vocab()), default=1)

    def _decode(self, token: str) -> bytes:
        if self._byte_level:
            try:
                return bytes(map(_BYTE_OF.__getitem__, token))
            except KeyError:
                return token.encode()
        if match := _BYTE_TOKEN.match(token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()


class Detokenizer:
    """One sequence's text as it grows."""

    __slots__ = ("_decoder", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The whole characters that this token completes."""
        return self._decoder.decode(self._vocabulary.bytes_of(token_id))

    def flush(self) -> str:
        """U+FFFD for a character that was cut off by the end, else nothing."""
        return self._decoder.decode(b"", True)


def _byte_of() -> dict[str, int]:
    """GPT-2's reversible spelling of bytes as printable characters: those that print stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    table.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return table


_BYTE_OF: Final = _byte_of()
