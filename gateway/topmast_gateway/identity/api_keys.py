"""API keys: who is calling, from the SHA-256 hashes in one Secret.

A key itself is never stored, logged or compared in a time that tells how much of it was right.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
from collections.abc import Iterable, Mapping

from topmast_gateway.identity.api_key_entry import ApiKey, BadKeyEntry, parse_entry

log = logging.getLogger(__name__)

_LONGEST_KEY = 256


class ApiKeys:
    """An immutable set of keys."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._by_digest = {key.digest: key for key in keys}

    def __contains__(self, digest: bytes) -> bool:
        """Whether a key with this SHA-256 is one of them."""
        return digest in self._by_digest

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, key: bytes) -> ApiKey | None:
        """What is known of the key that the caller presented, expired or not, or None.

        A plain lookup, however many keys there are: its time depends on the SHA-256 of what was presented, which
        nobody can steer towards a known one, so it tells nothing of how much of a key was right.
        """
        if not 0 < len(key) <= _LONGEST_KEY:
            return None
        return self._by_digest.get(hashlib.sha256(key).digest())


def from_secret(data: Mapping[str, str]) -> ApiKeys:
    """Keys of a Secret's `data`: entries in base64 by key name. A bad entry is nobody's key."""
    found: dict[bytes, ApiKey] = {}
    for name, encoded in sorted(data.items()):
        try:
            key = parse_entry(name, base64.b64decode(encoded, validate=True).decode())
        except BadKeyEntry as bad:
            log.warning("entry %r of the Secret of API keys opens nothing: %s", name, bad)
        except (binascii.Error, UnicodeDecodeError):
            log.warning("entry %r of the Secret of API keys opens nothing: it is not text", name)
        else:
            if (first := found.setdefault(key.digest, key)) is not key:
                named = (name, first.caller.name)
                log.warning("entry %r of the Secret of API keys opens nothing: its key is %r too, remove one", *named)
    return ApiKeys(found.values())


def bearer_token(authorization: bytes | None) -> bytes | None:
    """The token of `Authorization: Bearer <token>`, or None."""
    scheme, _, token = (authorization or b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" and token.strip() else None
