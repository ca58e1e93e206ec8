"""How a program ends: exit codes, and the one JSON line that Kubernetes shows as the termination message."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

DRAINED: Final = 0
BAD_USAGE: Final = 2
_LOAD_FAILED: Final = 10
_EXIT_CODES: Final = {"EngineDied": 11, "EngineHung": 12}

# The kubelet keeps 4096 bytes of a termination message and 2048 of a log's end.
_MESSAGE_CHARACTERS: Final = 2000


class Ending(Protocol):
    """Anything that has a JSON line: a Failure, or what a check found."""

    def as_json(self) -> Mapping[str, object]:
        """The line's fields; `code` and `message` are among them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the program ends with an error: a code of docs/contracts.md and a sentence with a remedy."""

    code: str
    message: str

    @property
    def exit_code(self) -> int:
        """10 for everything that is not the engine's death or hang: the model did not start."""
        return _EXIT_CODES.get(self.code, _LOAD_FAILED)

    def as_json(self) -> dict[str, str]:
        """What /state and the termination log carry."""
        return {"code": self.code, "message": self.message[:_MESSAGE_CHARACTERS]}


def write_termination_log(path: Path | None, ending: Ending) -> None:
    """The last act. A log that cannot be written must not hide the ending itself."""
    if path is None:
        return
    try:
        path.write_text(json.dumps(ending.as_json()) + "\n")
    except OSError as error:
        print(f"topmast: the termination log {path} cannot be written: {error}", file=sys.stderr, flush=True)


def death_of(return_code: int | None, phase: str) -> Failure:
    """The engine process ended without saying why."""
    how = "its pipe closed" if return_code is None else f"it ended with status {return_code}"
    remedy = "read the log above, then start the server again (Kubernetes does that by itself)"
    if return_code is not None and return_code < 0:
        how = f"it was killed by signal {-return_code}"
        if return_code == -7:
            remedy = "a file that it has mapped became shorter, or its disk failed: put the model's files back whole"
        if return_code == -9:
            remedy = (
                "often the kernel's out-of-memory killer: raise the memory limit or lower --kv-cache-bytes, "
                "--max-model-len or --max-num-seqs"
            )
    return Failure("EngineDied", f"the engine process died while {phase}: {how}; {remedy}")
