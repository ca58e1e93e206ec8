"""`GET /v1/usage`: what a caller has used of its limits, and its team of theirs. For its owner, by its own key."""

from __future__ import annotations

import json
from typing import Any

from topmast_gateway.identity.caller import Account, Caller
from topmast_gateway.limits.quota import QuotaEnforcer
from topmast_gateway.limits.rate_limits import Left

_PERIODS = ("day", "month")


def usage_report(caller: Caller, quota: QuotaEnforcer) -> bytes:
    """Requests and tokens of the current day and month (UTC) and what is left of each limit, at all gateways."""
    own, *team = caller.accounts
    report = {"object": "usage", "caller": caller.name, **_account(own, quota)}
    if team and caller.team:
        report["team"] = {"name": caller.team.name, **_account(team[0], quota)}
    return json.dumps(report).encode()


def _account(account: Account, quota: QuotaEnforcer) -> dict[str, Any]:
    held = quota.held(account.key)
    found: dict[str, Any] = {"open": {"requests": held.streams, "reserved_tokens": held.tokens}}
    for kind in _PERIODS:
        period, requests, tokens = quota.in_period(account.key, kind)
        found[kind] = {"period": period, "requests": requests, "tokens": tokens}
    return {**found, "limits": {left.what: _limit(left) for left in quota.left(account)}}


def _limit(left: Left) -> dict[str, Any]:
    reset_s = None if left.reset_s is None else round(left.reset_s, 1)
    return {"limit": left.limit, "remaining": left.remaining, "reset_s": reset_s}
