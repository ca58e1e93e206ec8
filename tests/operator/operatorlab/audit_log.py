"""The API server's audit log: the witness of what an operator asked for."""

from __future__ import annotations

import json
import time

from operatorlab.world import SYSTEM, World


def asked(world: World, since: float) -> list[str]:
    """What the operator asked the API server for after a moment, its Lease and open watches apart."""
    user = f"system:serviceaccount:{SYSTEM}:operator"
    whole, _, _ = world.cluster.audit_log.read_text().rpartition("\n")
    found = []
    for line in whole.splitlines():
        event = json.loads(line)
        began = time.mktime(time.strptime(event["requestReceivedTimestamp"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        if event["user"]["username"] != user or began < since or event["verb"] == "watch":
            continue
        if event.get("objectRef", {}).get("resource") != "leases":
            found.append(f"{event['verb']} {event['requestURI']}")
    return found
