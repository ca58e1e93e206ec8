"""Prometheus's text format, written in pieces: a page with thousands of series must not keep everybody else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_LINES_AT_ONCE: Final = 500  # are written; then others have the loop
_UNESCAPED: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def head(name: str, text: str, kind: str) -> str:
    """The two lines before a metric's samples."""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def sample(name: str, labels: Sequence[str], values: Sequence[str], number: float) -> str:
    """One line."""
    pairs = ",".join(f'{label}="{value.translate(_UNESCAPED)}"' for label, value in zip(labels, values, strict=True))
    return f"{name}{{{pairs}}} {_number(number)}\n" if pairs else f"{name} {_number(number)}\n"


def lines_of(collector: Collector) -> Iterator[str]:
    """Everything that a collector of prometheus_client has, without its times of creation."""
    for family in collector.collect():
        counter = family.type == "counter"
        yield head(f"{family.name}_total" if counter else family.name, family.documentation, family.type)
        for found in family.samples:
            if not found.name.endswith("_created"):
                yield sample(found.name, tuple(found.labels), tuple(found.labels.values()), found.value)


async def pages(lines: Iterable[str]) -> AsyncIterator[bytes]:
    """The lines, some at a time."""
    some: list[str] = []
    for line in lines:
        some.append(line)
        if len(some) >= _LINES_AT_ONCE:
            yield "".join(some).encode()
            some.clear()
            await asyncio.sleep(0)
    yield "".join(some).encode()


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else str(floatToGoString(value))  # type: ignore[no-untyped-call]
