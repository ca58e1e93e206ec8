"""`topmast key`: make, list and revoke API keys with the user's own rights. A key is shown once and stored nowhere."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer

from topmast_cli.keys import flags, options, teams
from topmast_cli.keys.entry import described, entry, new_key
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
    flag,
)

app = typer.Typer(help="Make, list and revoke API keys of the gateway.")

Name = Annotated[str, typer.Argument(metavar="NAME", parser=flags.key_name, help="Whose it is, in logs and metrics.")]


@app.command("list")
def list_keys(namespace: Namespace = NAMESPACE, secret: Secret = SECRET, kubeconfig: Kubeconfig = None) -> None:
    """Show names, models, expiry, teams and limits."""
    entries = options.key_secret(namespace, secret, kubeconfig).entries()
    now = datetime.now(UTC)
    rows = [("NAME", "MODELS", "EXPIRES", "TEAM", "LIMITS")]
    for name, text in entries.items():
        if not teams.is_team(name, text):
            models, expires, limits = described(text, now)
            rows.append((name, models, expires, teams.shown_of(text, entries), limits))
    options.print_table(rows)


@app.command()
def revoke(
    name: Name, namespace: Namespace = NAMESPACE, secret: Secret = SECRET, kubeconfig: Kubeconfig = None
) -> None:
    """Take a key back."""
    options.key_secret(namespace, secret, kubeconfig).remove(name, teams.key_may_go(name))
    print(f"revoked: {name}; the gateways refuse it within two seconds", file=sys.stderr)


@app.command()
def create(
    name: Name,
    model: Annotated[
        list[str] | None,
        flag("Such as team-a/*; repeatable; default: all.", metavar="PATTERN", parser=flags.model_pattern),
    ] = None,
    expires: Annotated[
        str | None, flag("90d, 12h, or a time such as 2027-01-31T00:00:00Z.", metavar="WHEN", parser=flags.expiry)
    ] = None,
    weight: Annotated[
        float | None, flag("Its share when models are busy (default 1).", metavar="W", parser=flags.weight)
    ] = None,
    priority: Annotated[
        Literal["interactive", "normal", "batch"] | None, flag("The best that it may ask for (default normal).")
    ] = None,
    team: Annotated[
        str | None, flag("Whose limits hold, too: `topmast team set`.", metavar="TEAM", parser=flags.team_name)
    ] = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    budget_tokens: BudgetTokens = None,
    budget_period: BudgetPeriod = None,
    max_streams: MaxStreams = None,
    debug: Annotated[bool, flag("Let it see which pod answered, and why that one.")] = False,
    namespace: Namespace = NAMESPACE,
    secret: Secret = SECRET,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make a key and print it, once, on standard output."""
    terms = {
        "models": model or None,
        "expires": expires,
        "weight": weight,
        "priority": priority,
        "team": team,
        "requestsPerMinute": requests_per_minute,
        "tokensPerMinute": tokens_per_minute,
        "budgetTokens": budget_tokens,
        "budgetPeriod": budget_period,
        "maxStreams": max_streams,
        "debug": debug or None,
    }
    key = new_key()
    made = entry(key, {field: value for field, value in terms.items() if value is not None})
    options.key_secret(namespace, secret, kubeconfig).add(name, made, teams.key_may_come(team))
    print(f"the key of {name}; keep it now, it is stored nowhere and never shown again:", file=sys.stderr)
    print(key)
