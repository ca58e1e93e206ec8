"""API keys: who is calling, from the SHA-256 hashes in one Secret.

A key itself is never stored, logged or compared in a time that tells how much of it was right.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
from collections.abc import Mapping

log = logging.getLogger(__name__)

_ENTRY = re.compile(r"sha256:([0-9a-f]{64})")
_LONGEST_KEY = 256


class Keys:
    """An immutable set of named key hashes."""

    def __init__(self, hashes: Mapping[str, bytes] | None = None) -> None:
        self._hashes = dict(hashes or {})

    def __len__(self) -> int:
        return len(self._hashes)

    def name_of(self, key: bytes) -> str | None:
        """The name of the key that the caller presented, or None. Every hash is compared, whatever matches."""
        if not 0 < len(key) <= _LONGEST_KEY:
            return None
        digest = hashlib.sha256(key).digest()
        found = None
        for name, known in self._hashes.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def from_secret(data: Mapping[str, str]) -> Keys:
    """Keys of a Secret's `data` (base64 of `sha256:<64 hex digits>` by key name). A bad entry is nobody's key."""
    hashes = {}
    for name, encoded in data.items():
        try:
            text = base64.b64decode(encoded, validate=True).decode("ascii").strip()
        except (binascii.Error, UnicodeDecodeError):
            text = ""
        if match := _ENTRY.fullmatch(text):
            hashes[name] = bytes.fromhex(match[1])
        else:
            log.warning("entry %r of the Secret of API keys is not 'sha256:' and 64 hex digits: it opens nothing", name)
    return Keys(hashes)


def bearer(authorization: bytes | None) -> bytes | None:
    """The token of `Authorization: Bearer <token>`, or None."""
    scheme, _, token = (authorization or b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" and token.strip() else None
