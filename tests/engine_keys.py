"""Key pairs by which engines know their callers, and the access files that engines are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from topmast_access.signing import SigningKey


def new_pem() -> bytes:
    """A new private key as `openssl genpkey -algorithm ed25519` writes it."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_key() -> SigningKey:
    """A new pair."""
    return SigningKey(new_pem())


def write_access(path: Path, *keys: SigningKey, **metrics: Any) -> Path:
    """Put an access file in its place as the kubelet does: in one step, and as a new file."""
    content: dict[str, Any] = {"keys": [dict(key.public_jwk) for key in keys]}
    if metrics:
        content["metrics"] = metrics
    replace(path, json.dumps(content).encode())
    return path


def replace(path: Path, content: bytes) -> None:
    """A file's new content, at once."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)
