"""Kubernetes quantities: parsed exactly, and written in the one spelling that the API server would also choose.

Owns no units beyond Kubernetes' own; a text that is no quantity raises ValueError.
"""

import math
import re
from decimal import Decimal

Quantity = str | int

_PATTERN = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?\d+))?$")
_BINARY = {unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL = {unit: Decimal(10) ** power for unit, power in _POWERS.items()}


def parse(text: Quantity) -> Decimal:
    """The exact value of `1500m`, `2Gi`, `1e3` or a plain number."""
    found = _PATTERN.match(str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 4Gi")
    number, binary, decimal, exponent = found.groups()
    value = Decimal(number)
    if binary:
        value *= _BINARY[binary]
    elif decimal:
        value *= _DECIMAL[decimal]
    elif exponent:
        value *= Decimal(10) ** int(exponent)
    return value


def cpu(text: Quantity) -> str:
    """CPUs, rounded up to millicores, as the API server would write them: `2`, `1500m`."""
    milli = math.ceil(parse(text) * 1000)
    return f"{milli}m" if milli % 1000 else _decimal(milli // 1000)


def memory(text: Quantity) -> str:
    """Bytes as the API server would write them: the largest binary unit that divides them, else a decimal one."""
    size = as_bytes(text)
    for unit, factor in reversed(_BINARY.items()):
        if size and size % int(factor) == 0:
            return f"{size // int(factor)}{unit}"
    return _decimal(size)


def as_bytes(text: Quantity) -> int:
    """A whole number of bytes, rounded up."""
    return math.ceil(parse(text))


def _decimal(number: int) -> str:
    for unit in "EPTGMk":
        factor = int(_DECIMAL[unit])
        if number and number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)
