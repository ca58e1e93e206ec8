"""What both sides agree on (docs/contracts.md)."""

from __future__ import annotations

from typing import Final

ALGORITHM: Final = "EdDSA"  # with Ed25519 keys
GATEWAY: Final = "topmast-gateway"
OPERATOR: Final = "topmast-operator"
LIFETIME_S: Final = 300  # of a token; a new one is signed when half of it has passed
LONGEST_LIFETIME_S: Final = 900  # that an engine accepts
SKEW_S: Final = 30  # by which two clocks may differ
MAX_KEYS: Final = 8
REFUSED: Final = "invalid_engine_token"  # the code of the 401
