"""The `topmast` program: finds a command by its entry point and hands over.

It imports nothing else of Topmast, so that `topmast serve` pays for no operator and an image needs only its own extra.
"""

import sys
from importlib.metadata import entry_points, version

GROUP = "topmast.commands"


def main() -> None:
    """Run `topmast COMMAND ...`; exit code 2 with the list of commands when there is none of that name."""
    commands = {point.name: point for point in entry_points(group=GROUP)}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--version", "version"):
        print(version("topmast"))
    elif name in commands:
        run = _load(name)
        sys.argv = [f"topmast {name}", *sys.argv[2:]]
        sys.exit(run())
    else:
        listing = f"usage: topmast COMMAND ...\n\ncommands: {', '.join(sorted(commands))}, version"
        if name in ("--help", "-h", "help"):
            print(listing)
        else:
            sys.exit(f"topmast: there is no command {name!r}\n{listing}")


def _load(name: str):  # type: ignore[no-untyped-def]
    (point,) = entry_points(group=GROUP, name=name)
    try:
        return point.load()
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("topmast"):
            raise
        extra = {"serve": "server", "check": "server", "key": "operator"}.get(name, name)
        sys.exit(f"topmast {name} needs {missing.name}: pip install 'topmast[{extra}]'")


if __name__ == "__main__":
    main()
