"""What was asked of a cluster, on disk, so that the next command knows it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

API_SERVER = "kube-apiserver"


@dataclass
class Record:
    """`octet` fixes the addresses. `down` names what was taken down on purpose: nodes, or `kube-apiserver`."""

    octet: int
    nodes: list[str] = field(default_factory=list)
    gpus: dict[str, int] = field(default_factory=dict)
    down: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)  # archives that were loaded: later nodes get them as well

    def save(self, path: Path) -> None:
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Record | None":
        """None where there is no record, or only a torn one."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
