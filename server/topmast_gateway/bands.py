"""What a request's `priority` means: a band by name or by number, as the engine knows them."""

from __future__ import annotations

from typing import Any, Final

from topmast_gateway.caller import Band

_NAMES: Final = {band.name.lower(): band for band in Band}


def band_of(value: Any) -> Band | None:
    """The band; None for what is absent, and for nonsense, which the engine refuses with a better sentence."""
    if isinstance(value, str):
        return _NAMES.get(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return Band(value) if is_number and value in _NAMES.values() else None
