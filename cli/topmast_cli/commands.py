"""The commands that are handed over before typer is imported: those of the other packages, and `version`.

Each is an entry point, so that no package has to import another to be reachable from one program. An entry point holds
no sentence, and asking the command for one would import it: what the help says of each, and the extra with the packages
that it needs, stands here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, distribution
from typing import NamedTuple

from topmast_cli.failure import Failure

GROUP = "topmast.commands"


class About(NamedTuple):
    sentence: str
    extra: str


ABOUT = {
    "serve": About("Serve a model on this machine by the OpenAI API.", "server"),
    "check": About("Check a model's files without loading its weights.", "server"),
    "gateway": About("Run the gateway in front of all engine pods.", "gateway"),
    "operator": About("Run the operator: LLMDeployments into engine pods.", "operator"),
    "version": About("Print the version.", "cli"),
}


def find(name: str) -> EntryPoint | None:
    """The command of that name, not yet imported."""
    # Ours alone: reading what every installed package offers would cost `topmast serve` milliseconds.
    return next(iter(distribution("topmast").entry_points.select(group=GROUP, name=name)), None)


def run(point: EntryPoint, arguments: Sequence[str]) -> int:
    """Import the command and hand the command line over; its exit code."""
    sys.argv = [f"topmast {point.name}", *arguments]
    with needs(ABOUT[point.name].extra):
        return int(point.load()())


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Failure where something inside imports a package that is missing, and that this extra brings."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("topmast"):
            raise  # a fault of ours, which no extra heals
        raise Failure(f"the package {missing.name} is missing: pip install 'topmast[{extra}]'") from missing
