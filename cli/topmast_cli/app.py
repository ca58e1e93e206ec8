"""The typer application: its own commands, and the others' names for the help and for completion."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from typer.main import get_command

from topmast_cli import commands
from topmast_cli.keys.command import app as keys
from topmast_cli.keys.team_command import app as teams


def run(arguments: Sequence[str], program: str) -> int:
    """The exit code. What typer refuses is one line on standard error, in a terminal and in a log alike."""
    command = get_command(application(completion=program == "topmast"))
    try:
        return int(command.main(list(arguments), prog_name=program, standalone_mode=False) or 0)
    except typer.TyperException as wrong:
        context = getattr(wrong, "ctx", None)
        where = context.command_path if context else f"{program} {arguments[0]}"
        sentence = " ".join(wrong.format_message().split()).replace("Value error, ", "").rstrip(".")
        print(f"{where}: {sentence} (see {where} --help)", file=sys.stderr)
        return wrong.exit_code
    except typer.Abort:
        return 1


def application(*, completion: bool) -> typer.Typer:
    """`completion` adds the flags that install it into a shell; kubectl's own completion calls `kubectl_complete`."""
    app = typer.Typer(
        name="topmast",
        help="Language models on Kubernetes, and on this machine.",
        add_completion=completion,
        rich_markup_mode=None,  # its frames take half of a narrow terminal
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.add_typer(keys, name="key")
    app.add_typer(teams, name="team")
    for name, about in commands.ABOUT.items():
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, help=about.sentence, add_help_option=False, context_settings=anything)(_hand_over)
    app.command("help", hidden=True)(_help)
    return app


def _hand_over(context: typer.Context) -> None:
    point = commands.find(str(context.info_name))
    assert point is not None, "a test compares ABOUT with the entry points"
    raise typer.Exit(commands.run(point, context.args))


def _help(context: typer.Context) -> None:
    assert context.parent is not None
    print(context.parent.get_help())
