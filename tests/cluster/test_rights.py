"""The shipped roles are enough and nothing in them is unused, by the API server's own audit log.

Named to run last: it judges what the operator and the gateway asked for during all tests before it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.lab import RELEASE, SYSTEM, Lab

pytestmark = pytest.mark.judge
Right = tuple[str, str, str]  # verb, API group, resource (with subresource)


def used(audit_log: Path, user: str) -> tuple[set[Right], set[Right]]:
    """What `user` did, and what it was refused."""
    done: set[Right] = set()
    refused: set[Right] = set()
    whole, _, _ = audit_log.read_text().rpartition("\n")  # the last line may be on its way
    for line in whole.splitlines():
        event = json.loads(line)
        if event["user"]["username"] != user or "objectRef" not in event:
            continue
        ref = event["objectRef"]
        resource = "/".join(part for part in (ref["resource"], ref.get("subresource")) if part)
        group, code = ref.get("apiGroup", ""), event["responseStatus"]["code"]
        (refused if code == 403 else done).add((event["verb"], group, resource))
        if event["verb"] == "patch" and code == 201:
            done.add(("create", group, resource))  # server-side apply of something new needs both rights
    return done, refused


def granted(lab: Lab, account: str) -> set[Right]:
    """Every right that a role bound to the service account gives."""
    rights: set[Right] = set()
    for kind in ("rolebindings", "clusterrolebindings"):
        bindings = json.loads(lab.kubectl("get", kind, "-A", "-o", "json"))["items"]
        for binding in bindings:
            subjects = {
                (s.get("namespace"), s["name"]) for s in binding.get("subjects", []) if s["kind"] == "ServiceAccount"
            }
            if (SYSTEM, account) not in subjects:
                continue
            ref = binding["roleRef"]
            where = () if ref["kind"] == "ClusterRole" else ("-n", binding["metadata"]["namespace"])
            role = json.loads(lab.kubectl(*where, "get", ref["kind"].lower(), ref["name"], "-o", "json"))
            rights |= {
                (verb, group, resource)
                for rule in role["rules"]
                for verb in rule["verbs"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
            }
    return rights


def test_the_shipped_roles_are_enough_and_nothing_in_them_is_unused(lab: Lab, cluster) -> None:  # type: ignore[no-untyped-def]
    for account in (f"{RELEASE}-operator", f"{RELEASE}-gateway"):
        done, refused = used(cluster.audit_log, f"system:serviceaccount:{SYSTEM}:{account}")
        allowed = granted(lab, account)
        # What the role grants was refused only by an API server that had just started and did not know its roles yet.
        assert refused <= allowed, f"{account} was refused {refused - allowed}"
        assert not any("*" in right for rule in allowed for right in rule), f"{account} has a wildcard"
        assert allowed - done == set(), f"{account} never used {sorted(allowed - done)}"
