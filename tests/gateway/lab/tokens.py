"""A token issuer: its keys, and the tokens that it signs."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://issuer.example", "topmast"
PRIVATE = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHER = ec.generate_private_key(ec.SECP256R1())
_MAKERS = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


def public(algorithm: str, key: Any = None, **fields: Any) -> dict[str, Any]:
    made = json.loads(_MAKERS[algorithm].to_jwk((key or PRIVATE[algorithm]).public_key()))
    return {**made, "kid": algorithm, "use": "sig", **fields}


JWKS = json.dumps({"keys": [public(algorithm) for algorithm in PRIVATE]}).encode()


def token(algorithm: str = "ES256", *, key: Any = None, headers: dict[str, Any] | None = None, **claims: Any) -> bytes:
    """A good token, changed by what is given; a claim that is None is left out."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 300, "topmast_models": ["team-a/*"]}
    payload = {name: value for name, value in {**good, **claims}.items() if value is not None}
    signed = jwt.encode(payload, key or PRIVATE[algorithm], algorithm, headers={"kid": algorithm, **(headers or {})})
    return signed.encode()
