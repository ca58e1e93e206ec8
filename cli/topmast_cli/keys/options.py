"""The flags that `topmast key` and `topmast team` share, and the Secret that they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from topmast_cli import commands
from topmast_cli.keys import flags

if TYPE_CHECKING:
    from topmast_cli.keys.secret import KeySecret

NAMESPACE = "topmast-system"
SECRET = "topmast-api-keys"


def flag(help: str, **of_typer: Any) -> Any:
    return typer.Option(help=help, show_default=False, **of_typer)


Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="Where the Secret is.")]
Secret = Annotated[str, typer.Option(metavar="NAME", help="The Secret that holds the keys.")]
Kubeconfig = Annotated[str | None, flag("Default: $KUBECONFIG, then ~/.kube/config.", metavar="FILE")]

RequestsPerMinute = Annotated[int | None, flag("", metavar="N", parser=flags.count)]
TokensPerMinute = Annotated[int | None, flag("Prompt and answer together.", metavar="N", parser=flags.count)]
BudgetTokens = Annotated[int | None, flag("Per --budget-period.", metavar="N", parser=flags.count)]
BudgetPeriod = Annotated[Literal["day", "month", "total"] | None, flag("Calendar days or months, UTC (default month).")]
MaxStreams = Annotated[int | None, flag("Requests at once.", metavar="N", parser=flags.count)]


def key_secret(namespace: str, name: str, kubeconfig: str | None) -> KeySecret:
    """The Secret of API keys, not yet read; Failure where there is no cluster to read it from."""
    with commands.needs("cli"):
        # Late, because the client takes a third of a second: too long for help and for completion.
        from topmast_cli.cluster import core_api
        from topmast_cli.keys.secret import KeySecret
    return KeySecret(core_api(kubeconfig), namespace, name)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest word; the last one is as long as it likes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *words, last in rows:
        print("  ".join([*(word.ljust(width) for word, width in zip(words, widths, strict=True)), last]))
