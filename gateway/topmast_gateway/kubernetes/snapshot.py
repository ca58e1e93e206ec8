"""What the gateway last knew of the cluster, on disk: one that starts while the API server is away serves from it.

Keys are in it as the hashes that they are in their Secret. It knows nothing of where its facts come from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from topmast_gateway.identity.api_key_entry import ApiKey
from topmast_gateway.identity.caller import Team
from topmast_gateway.routing.model_table import Model, Pod

log = logging.getLogger(__name__)

_FORMAT: Final = 1
_LONGEST_AGE_S: Final = 86_400.0  # since the API server last said something: keys that were revoked must not live on
_LARGEST_BYTES: Final = 256 * 1024 * 1024


class ClusterFacts(msgspec.Struct):
    """By the name of an informer and by uid. A gateway that watches something else takes what it watches, too."""

    models: dict[str, dict[str, Model]]
    pods: dict[str, dict[str, Pod]]
    keys: list[ApiKey]
    teams: list[Team]
    secret: str  # the informer that the keys are of
    format: int = _FORMAT


_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(ClusterFacts)


class Snapshot:
    """One file, replaced as a whole, and readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trouble = ""

    def load(self) -> tuple[ClusterFacts, float] | None:
        """What it holds, and how old that is in seconds; None, and a line in the log, where it is of no use."""
        try:
            age_s = time.time() - self._path.stat().st_mtime
            if age_s > _LONGEST_AGE_S:
                log.warning(
                    "the snapshot %s is %.0f hours old, which is too old to trust its keys", self._path, age_s / 3600
                )
                return None
            with self._path.open("rb") as file:
                facts = _decoder.decode(file.read(_LARGEST_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            log.warning("the snapshot %s cannot be used: %s", self._path, error)
            return None
        return (facts, age_s) if facts.format == _FORMAT else None

    async def save(self, facts: ClusterFacts) -> None:
        """Replace what it holds; a disk that does not take it is named once, and costs nothing else."""
        await self._try(lambda: self._write(_encoder.encode(facts)))

    async def confirm(self) -> None:
        """What it holds is what the API server says now."""
        await self._try(lambda: os.utime(self._path))

    def _write(self, content: bytes) -> None:
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            beside.replace(self._path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)

    async def _try(self, write: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(write)
        except (OSError, msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
            if str(error) != self._trouble:
                log.warning("the snapshot %s cannot be written (%s): a restart needs the API server", self._path, error)
            self._trouble = str(error)
        else:
            self._trouble = ""
