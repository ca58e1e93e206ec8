"""The `topmast` program, and `kubectl topmast`: finds out which command it is, and how the process ends.

Imports only the standard library before it knows the command, so that `topmast serve` pays for nothing else, and an
image with the server's packages alone still runs it. The commands that are not handed over are typer's (`app`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from topmast_cli import commands
from topmast_cli.failure import Failure

FAILED, INTERRUPTED = 1, 130


def main() -> None:
    """Run `topmast COMMAND ...`. 0: done; 1: it could not be done; 2: bad usage; or what the command itself says."""
    program = "kubectl topmast" if Path(sys.argv[0]).name == "kubectl-topmast" else "topmast"
    arguments = sys.argv[1:] or ["--help"]
    try:
        code = _run(arguments, program)
    except Failure as failure:
        print(f"{program} {arguments[0]}: {failure}", file=sys.stderr)
        code = FAILED
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _run(arguments: Sequence[str], program: str) -> int:
    name, *rest = arguments
    point = commands.find("version" if name == "--version" else name)
    if point is not None:
        return commands.run(point, rest)
    try:
        with commands.needs("cli"):
            from topmast_cli.app import run
    except Failure as without_typer:
        if name not in ("-h", "--help", "help"):
            raise
        return _list(without_typer)
    return run(arguments, program)


def _list(missing: Failure) -> int:
    """The help of an image that has no typer."""
    print("usage: topmast COMMAND ...\n")
    for name, about in commands.ABOUT.items():
        print(f"  {name:<10}{about.sentence}")
    print(f"\nMore commands, with help on each: {missing}")
    return 0


if __name__ == "__main__":
    main()
