"""`topmast key`: make, list and revoke API keys with the user's own rights. A key is shown once and stored nowhere."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes.aio.config import ConfigException

from topmast_operator.act.client import Api, ApiUnreachableError
from topmast_operator.act.key_secret import KeySecret, KeySecretError
from topmast_operator.api.key_entry import described, entry, new_key

_NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,62}")
_PATTERN = re.compile(r"\*|[a-z0-9.*?-]+/[a-z0-9.*?-]+")
_AGE = re.compile(r"([0-9]{1,5})([hd])")


def main() -> int:
    """0: done; 1: the cluster said no, or there is none; 2: bad usage."""
    arguments = _parser().parse_args()
    try:
        return asyncio.run(_run(arguments))
    except ConfigException as error:
        return _failed(f"no cluster to talk to: {error}. Set KUBECONFIG, or use --kubeconfig.")
    except (ApiUnreachableError, KeySecretError) as error:
        return _failed(str(error))


async def _run(arguments: argparse.Namespace) -> int:
    api = await Api.connect(arguments.kubeconfig)
    secret = KeySecret(api, arguments.namespace, arguments.secret)
    try:
        if arguments.action == "create":
            await _create(secret, arguments)
        elif arguments.action == "revoke":
            await secret.remove(arguments.name)
            print(f"revoked: {arguments.name}; the gateways refuse it within two seconds", file=sys.stderr)
        else:
            _show(await secret.entries())
    finally:
        await api.close()
    return 0


async def _create(secret: KeySecret, arguments: argparse.Namespace) -> None:
    key = new_key()
    await secret.add(arguments.name, entry(key, _terms(arguments)))
    print(f"the key of {arguments.name}; keep it now, it is stored nowhere and never shown again:", file=sys.stderr)
    print(key)


def _show(entries: dict[str, str]) -> None:
    now = datetime.now(UTC)
    rows = [("NAME", "MODELS", "EXPIRES", "LIMITS"), *((name, *described(text, now)) for name, text in entries.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(word.ljust(width) for word, width in zip(row, widths, strict=False)), row[3]]))


def _terms(arguments: argparse.Namespace) -> dict[str, Any]:
    terms = {
        "models": arguments.model or None,
        "expires": arguments.expires,
        "weight": arguments.weight,
        "priority": arguments.priority,
        "requestsPerMinute": arguments.requests_per_minute,
        "tokensPerMinute": arguments.tokens_per_minute,
        "budgetTokens": arguments.budget_tokens,
        "budgetPeriod": arguments.budget_period,
        "maxStreams": arguments.max_streams,
    }
    return {field: value for field, value in terms.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="topmast key", description="API keys of the gateway.", allow_abbrev=False)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("-n", "--namespace", default="topmast-system", metavar="NS", help="default: %(default)s")
    where.add_argument("--secret", default="topmast-api-keys", metavar="NAME", help="default: %(default)s")
    where.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, then ~/.kube/config")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", parents=[where], help="names, models, expiry and limits")
    revoke = actions.add_parser("revoke", parents=[where], help="take a key back")
    revoke.add_argument("name", type=_name)
    create = actions.add_parser("create", parents=[where], help="make a key and print it, once, on standard output")
    create.add_argument("name", type=_name, help="whose it is: it stands in logs and metrics")
    add = create.add_argument
    add("--model", action="append", type=_pattern, metavar="PATTERN", help="such as team-a/*; repeatable; default: all")
    add("--expires", type=_expiry, metavar="WHEN", help="90d, 12h, or a time such as 2027-01-31T00:00:00Z")
    add("--weight", type=_weight, metavar="W", help="its share when models are busy (default 1)")
    add("--priority", choices=("interactive", "normal", "batch"), help="the best that it may ask for (default normal)")
    add("--requests-per-minute", type=_count, metavar="N")
    add("--tokens-per-minute", type=_count, metavar="N", help="prompt and answer together")
    add("--budget-tokens", type=_count, metavar="N", help="per --budget-period")
    add("--budget-period", choices=("day", "month", "total"), help="calendar days or months, UTC (default month)")
    add("--max-streams", type=_count, metavar="N", help="requests at once")
    return parser


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: use up to 63 letters, digits, '-', '_' and '.'")
    return text


def _pattern(text: str) -> str:
    if not _PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no pattern: write namespace/name, such as team-a/*, or *")
    return text


def _expiry(text: str) -> str:
    """A time in the future, as the entry holds it."""
    now = datetime.now(UTC)
    try:
        if age := _AGE.fullmatch(text):
            when = now + timedelta(**{{"h": "hours", "d": "days"}[age[2]]: int(age[1])})
        else:
            when = datetime.fromisoformat(text)
            if when.tzinfo is None:
                raise ValueError("no zone")
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not 90d, 12h, or a time like 2027-01-31T00:00:00Z") from None
    if when <= now:
        raise argparse.ArgumentTypeError(f"{text} has passed")
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _weight(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1000")
    return value


def _count(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,14}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0; leave it out for no limit")
    return int(text)


def _failed(message: str) -> int:
    print(f"topmast key: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
