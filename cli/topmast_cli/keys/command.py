"""`topmast key`: make, list and revoke API keys with the user's own rights. A key is shown once and stored nowhere."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from topmast_cli import commands
from topmast_cli.keys import flags
from topmast_cli.keys.entry import described, entry, new_key

if TYPE_CHECKING:
    from topmast_cli.keys.secret import KeySecret

app = typer.Typer(help="Make, list and revoke API keys of the gateway.")


def _flag(help: str, **of_typer: Any) -> Any:
    return typer.Option(help=help, show_default=False, **of_typer)


Name = Annotated[str, typer.Argument(metavar="NAME", parser=flags.key_name, help="Whose it is, in logs and metrics.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="Where the Secret is.")]
Secret = Annotated[str, typer.Option(metavar="NAME", help="The Secret that holds the keys.")]
Kubeconfig = Annotated[str | None, _flag("Default: $KUBECONFIG, then ~/.kube/config.", metavar="FILE")]

NAMESPACE = "topmast-system"
SECRET = "topmast-api-keys"


@app.command("list")
def list_keys(namespace: Namespace = NAMESPACE, secret: Secret = SECRET, kubeconfig: Kubeconfig = None) -> None:
    """Show names, models, expiry and limits."""
    entries = _key_secret(namespace, secret, kubeconfig).entries()
    now = datetime.now(UTC)
    rows = [("NAME", "MODELS", "EXPIRES", "LIMITS"), *((name, *described(text, now)) for name, text in entries.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(word.ljust(width) for word, width in zip(row, widths, strict=False)), row[3]]))


@app.command()
def revoke(
    name: Name, namespace: Namespace = NAMESPACE, secret: Secret = SECRET, kubeconfig: Kubeconfig = None
) -> None:
    """Take a key back."""
    _key_secret(namespace, secret, kubeconfig).remove(name)
    print(f"revoked: {name}; the gateways refuse it within two seconds", file=sys.stderr)


@app.command()
def create(
    name: Name,
    model: Annotated[
        list[str] | None,
        _flag("Such as team-a/*; repeatable; default: all.", metavar="PATTERN", parser=flags.model_pattern),
    ] = None,
    expires: Annotated[
        str | None, _flag("90d, 12h, or a time such as 2027-01-31T00:00:00Z.", metavar="WHEN", parser=flags.expiry)
    ] = None,
    weight: Annotated[
        float | None, _flag("Its share when models are busy (default 1).", metavar="W", parser=flags.weight)
    ] = None,
    priority: Annotated[
        Literal["interactive", "normal", "batch"] | None, _flag("The best that it may ask for (default normal).")
    ] = None,
    requests_per_minute: Annotated[int | None, _flag("", metavar="N", parser=flags.count)] = None,
    tokens_per_minute: Annotated[
        int | None, _flag("Prompt and answer together.", metavar="N", parser=flags.count)
    ] = None,
    budget_tokens: Annotated[int | None, _flag("Per --budget-period.", metavar="N", parser=flags.count)] = None,
    budget_period: Annotated[
        Literal["day", "month", "total"] | None, _flag("Calendar days or months, UTC (default month).")
    ] = None,
    max_streams: Annotated[int | None, _flag("Requests at once.", metavar="N", parser=flags.count)] = None,
    debug: Annotated[bool, _flag("Let it see which pod answered, and why that one.")] = False,
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
        "requestsPerMinute": requests_per_minute,
        "tokensPerMinute": tokens_per_minute,
        "budgetTokens": budget_tokens,
        "budgetPeriod": budget_period,
        "maxStreams": max_streams,
        "debug": debug or None,
    }
    key = new_key()
    made = entry(key, {field: value for field, value in terms.items() if value is not None})
    _key_secret(namespace, secret, kubeconfig).add(name, made)
    print(f"the key of {name}; keep it now, it is stored nowhere and never shown again:", file=sys.stderr)
    print(key)


def _key_secret(namespace: str, name: str, kubeconfig: str | None) -> KeySecret:
    with commands.needs("cli"):
        # Late, because the client takes a third of a second: too long for help and for completion.
        from topmast_cli.cluster import core_api
        from topmast_cli.keys.secret import KeySecret
    return KeySecret(core_api(kubeconfig), namespace, name)
