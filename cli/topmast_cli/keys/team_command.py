"""`topmast team`: teams whose keys share limits, with the user's own rights. Each is one entry beside the keys'."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from topmast_cli.keys import flags, options, teams
from topmast_cli.keys.entry import limits_in_words
from topmast_cli.keys.options import (
    NAMESPACE,
    SECRET,
    BudgetPeriod,
    BudgetTokens,
    Kubeconfig,
    MaxStreams,
    Namespace,
    RequestsPerMinute,
    Secret,
    TokensPerMinute,
)

app = typer.Typer(help="Make, list and remove teams, whose keys share limits.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", parser=flags.team_name, help="As --team of `key create` names it.")
]


@app.command("list")
def list_teams(namespace: Namespace = NAMESPACE, secret: Secret = SECRET, kubeconfig: Kubeconfig = None) -> None:
    """Show names, limits and keys."""
    entries = options.key_secret(namespace, secret, kubeconfig).entries()
    shown = {name: limits_in_words(text) for name, text in teams.entries_of_teams(entries).items()}
    shown |= dict.fromkeys(teams.missing(entries), "not there: its keys open nothing")
    rows = [(name, limits, ", ".join(teams.members(entries, name)) or "none") for name, limits in sorted(shown.items())]
    options.print_table([("NAME", "LIMITS", "KEYS"), *rows])


@app.command("set")
def set_team(
    name: Name,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    budget_tokens: BudgetTokens = None,
    budget_period: BudgetPeriod = None,
    max_streams: MaxStreams = None,
    namespace: Namespace = NAMESPACE,
    secret: Secret = SECRET,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make a team, or replace all limits of one; without a limit it only groups keys."""
    if budget_period and not budget_tokens:
        raise typer.BadParameter("it needs --budget-tokens", param_hint="'--budget-period'")
    limits = {
        "requestsPerMinute": requests_per_minute,
        "tokensPerMinute": tokens_per_minute,
        "budgetTokens": budget_tokens,
        "budgetPeriod": budget_period,
        "maxStreams": max_streams,
    }
    made = teams.team_entry({field: value for field, value in limits.items() if value is not None})
    its_secret = options.key_secret(namespace, secret, kubeconfig)
    its_secret.put(teams.entry_name(name), made, teams.team_may_be_set(name))
    print(f"{name}: {limits_in_words(made)}")


@app.command()
def remove(
    name: Name,
    force: Annotated[bool, options.flag("Although keys belong to it: they open nothing then.")] = False,
    namespace: Namespace = NAMESPACE,
    secret: Secret = SECRET,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Remove a team that has no keys any more."""
    left: list[str] = []
    its_secret = options.key_secret(namespace, secret, kubeconfig)
    its_secret.remove(teams.entry_name(name), teams.team_may_go(name, left, force=force))
    print(teams.removed(name, left), file=sys.stderr)
