"""What `make test` consists of, in which order, and what may run beside what.

A step is a target of the Makefile, which says how it is run. The rule is made for two cores: at most two steps at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Kind(StrEnum):
    """What a step asks of its neighbours."""

    COMPUTES = "computes"  # and measures nothing: it gives way (nice) to what runs beside it
    WAITS = "waits"  # most of the time, for processes that sleep; its tests have a minute's patience
    MEASURES = "measures"  # its tests have bounds of seconds or rates: nothing may run beside it


@dataclass(frozen=True)
class Step:
    """A target of the Makefile, and the targets whose work it needs."""

    target: str
    kind: Kind
    after: tuple[str, ...] = ()


# Of two that could start the earlier one does: first what others wait for, last what has to be alone.
STEPS = (
    Step("binaries", Kind.COMPUTES),
    Step("images", Kind.COMPUTES, after=("binaries",)),
    Step("test-operator", Kind.WAITS, after=("binaries",)),
    Step("test-own-cluster", Kind.WAITS, after=("images",)),
    Step("test-chart", Kind.WAITS, after=("binaries",)),
    Step("check", Kind.COMPUTES),
    Step("test-suites", Kind.COMPUTES),
    Step("test-cli", Kind.COMPUTES),
    Step("test-kernels", Kind.COMPUTES),
    Step("test-old-triton", Kind.COMPUTES),
    Step("test-alone", Kind.MEASURES, after=("binaries",)),
    Step("test-server", Kind.MEASURES),
    Step("test-gateway-units", Kind.MEASURES),
    Step("test-gateway", Kind.MEASURES, after=("binaries",)),
    Step("test-cluster", Kind.MEASURES, after=("images",)),
)


def chosen(steps: Sequence[Step], targets: Collection[str]) -> list[Step]:
    """Some steps of a plan, which take it that the others have been done."""
    return [
        replace(step, after=tuple(target for target in step.after if target in targets))
        for step in steps
        if step.target in targets
    ]


def may_join(step: Step, running: Collection[Step]) -> bool:
    """Alone always; else one that computes beside one that waits."""
    kinds = [step.kind, *(other.kind for other in running)]
    return len(kinds) == 1 or sorted(kinds) == [Kind.COMPUTES, Kind.WAITS]


def next_step(waiting: Sequence[Step], running: Collection[Step], passed: Collection[str]) -> Step | None:
    """The first whose needs have passed and that may join those that run."""
    return next((step for step in waiting if set(step.after) <= set(passed) and may_join(step, running)), None)
