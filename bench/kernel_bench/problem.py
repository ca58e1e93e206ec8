"""What is measured: a problem of one size, how to make its inputs, who takes part, and what a right answer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], Any]


class Absent(Exception):
    """A contestant that cannot take part here; the message says why."""


@dataclass(frozen=True)
class Problem:
    """One cell of a table.

    bytes_moved: what must at least be read and written, for bandwidth and the floor. make(seed): inputs on the device.
    contestants: name -> function of the inputs that gives a call without arguments; it may raise Absent. check(inputs,
    call): None if what the call does is right, else what is wrong. weight: smaller ones are measured first.
    """

    operation: str
    size: dict[str, int | str]
    bytes_moved: int
    make: Callable[[int], Any]
    contestants: dict[str, Callable[[Any], Call]]
    check: Callable[[Any, Call], str | None]
    weight: int = 0


@dataclass
class Result:
    """Microseconds are medians; None where not measured. `said` tells why, or what else a reader should know."""

    operation: str
    size: dict[str, int | str]
    contestant: str
    bytes_moved: int = 0
    right: bool | None = None
    cold_us: float | None = None
    warm_us: float | None = None
    cold_gb_per_s: float | None = None
    floor_us: float | None = None
    extra_bytes: int | None = None
    launches: int | None = None
    graph: bool = True
    said: str = ""
    spread_us: list[float] = field(default_factory=list)  # 10th and 90th percentile, cold
