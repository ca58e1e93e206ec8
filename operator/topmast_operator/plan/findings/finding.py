"""What a finding is: what is wrong with one pod or one child, in a sentence with a way out, and who can mend it."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Kind(StrEnum):
    MODEL = "model"  # its files
    CLAIM = "claim"  # the volume that they are on
    CAPACITY = "capacity"  # room that may come
    NODES = "nodes"  # no node takes it, however much room there is
    IMAGE = "image"
    CONFIG = "config"
    CRASH = "crash"
    PROGRESS = "progress"  # nothing moves


class Severity(IntEnum):
    HEALS = 0  # goes on by itself, and is tried for ever
    HUMAN = 1  # will probably need a human, and was not tried often or long enough to say so
    FINAL = 2  # only a human can mend it


@dataclass(frozen=True)
class Finding:
    kind: Kind
    reason: str  # CamelCase, stable, for machines
    message: str  # for a tired human
    severity: Severity = Severity.HEALS
    times: int = 1
    permanent: bool = False  # the engine itself says that no restart can heal it

    @property
    def final(self) -> bool:
        return self.severity is Severity.FINAL

    @property
    def gives_up(self) -> bool:
        """Not even worth the room that its pod holds."""
        return self.permanent and self.final


@dataclass(frozen=True)
class Patience:
    """How a pod is judged. A revision that was proven once is never given up: what it meets heals, or is told."""

    now: float
    proven: bool
    deadline_s: float  # spec.rollout.progressDeadlineSeconds

    def after(self, since_unix_s: float | None, grace_s: float) -> Severity:
        """What only a human can mend is said so once it has lasted for `grace_s`."""
        lasted = since_unix_s is not None and self.now - since_unix_s >= grace_s
        return Severity.FINAL if lasted else Severity.HUMAN
