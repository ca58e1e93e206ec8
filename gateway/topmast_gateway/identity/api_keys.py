"""API keys: who is calling, from the SHA-256 hashes in one Secret.

A key itself is never stored, logged or compared in a time that shows how much of it was right.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from topmast_gateway.identity.api_key_entry import ApiKey, BadKeyEntry, parse_entry
from topmast_gateway.identity.caller import Team

log = logging.getLogger(__name__)

_LONGEST_KEY = 256


class ApiKeys:
    """An immutable set of keys, and the teams that keys and tokens may belong to."""

    def __init__(self, keys: Iterable[ApiKey] = (), teams: Iterable[Team] = ()) -> None:
        self._by_digest = {key.digest: key for key in keys}
        self._teams = {team.name: team for team in teams}

    def __contains__(self, digest: bytes) -> bool:
        """Whether a key with this SHA-256 is one of them."""
        return digest in self._by_digest

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._by_digest.values())

    @property
    def teams(self) -> Iterable[Team]:
        """All of them."""
        return self._teams.values()

    def team(self, name: str) -> Team | None:
        """The team of this name, with its limits."""
        return self._teams.get(name)

    def find(self, key: bytes) -> ApiKey | None:
        """What is known of the key that the caller presented, expired or not, or None.

        A plain lookup, however many keys there are: its time depends on the SHA-256 of what was presented, which
        nobody can steer towards a known one, so it shows nothing of how much of a key was right.
        """
        if not 0 < len(key) <= _LONGEST_KEY:
            return None
        return self._by_digest.get(hashlib.sha256(key).digest())


def from_secret(data: Mapping[str, str]) -> ApiKeys:
    """Keys and teams of a Secret's `data`: entries in base64 by name. A bad entry is nobody's key.

    Nor is one whose team has no entry: a mistyped name must not make a key without its team's limits.
    """
    keys: dict[str, ApiKey] = {}
    teams: dict[str, Team] = {}
    for name, encoded in sorted(data.items()):
        try:
            found = parse_entry(name, base64.b64decode(encoded, validate=True).decode())
        except BadKeyEntry as bad:
            _complain(name, str(bad))
        except (binascii.Error, UnicodeDecodeError):
            _complain(name, "it is not text")
        else:
            if isinstance(found, Team):
                teams[found.name] = found
            else:
                keys[name] = found
    by_digest: dict[bytes, ApiKey] = {}
    for name, key in keys.items():
        if (team := key.caller.team) is not None:
            if team.name not in teams:
                _complain(name, f"there is no entry team.{team.name} for its team: add it, or correct `team`")
                continue
            key = replace(key, caller=replace(key.caller, team=teams[team.name]))
        if (first := by_digest.setdefault(key.digest, key)) is not key:
            _complain(name, f"its key is {first.caller.name!r} too, remove one")
    return ApiKeys(by_digest.values(), teams.values())


def _complain(name: str, why: str) -> None:
    log.warning("entry %r of the Secret of API keys opens nothing: %s", name, why)


def bearer_token(authorization: bytes | None) -> bytes | None:
    """The token of `Authorization: Bearer <token>`, or None."""
    scheme, _, token = (authorization or b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" and token.strip() else None
