"""An engine's access file: whose signature opens it, and who may read its metrics."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from topmast_access.terms import MAX_KEYS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Rules:
    """Public keys by id; whether everybody may read the metrics, or who shows a token of one of these SHA-256."""

    keys: Mapping[str, Ed25519PublicKey]
    metrics_open: bool
    metrics_sha256: tuple[bytes, ...]


def parse_rules(raw: bytes) -> Rules:
    """Of the file's JSON; ValueError with a sentence where it is not what docs/contracts.md says.

    Keys of other kinds are left out: a later version may add them before the last engine of this one is gone.
    """
    if not raw.strip():
        raise ValueError('it is empty: write {"keys": [...]} into it')
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    listed, metrics = _field(content, "keys", list), _field(content, "metrics", dict, {})
    if len(listed) > MAX_KEYS:
        raise ValueError(f"it has {len(listed)} keys: at most {MAX_KEYS} are read")
    keys: dict[str, Ed25519PublicKey] = {}
    for item in listed:
        if isinstance(item, dict) and "d" in item:
            raise ValueError("it holds a private key: write public keys into it, and make a new pair")
        if not isinstance(item, dict) or (item.get("kty"), item.get("crv")) != ("OKP", "Ed25519"):
            continue
        kid = _field(item, "kid", str)
        if kid in keys:
            raise ValueError(f"it has two keys with the id {kid!r}")
        keys[kid] = _public_key(kid, _field(item, "x", str))
    digests = _field(metrics, "token_sha256", list, [])
    if not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests):
        raise ValueError("metrics.token_sha256 is a list of 64 lower-case hex digits each")
    return Rules(keys, _field(metrics, "open", bool, False), tuple(bytes.fromhex(digest) for digest in digests))


def _field(content: Any, name: str, kind: type, default: Any = None) -> Any:
    value = content.get(name, default) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{name!r} is missing or no {kind.__name__}")
    return value


def _public_key(kid: str, x: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))
    except ValueError as error:
        raise ValueError(f"the key {kid!r} is no Ed25519 key: {error}") from None
