"""Nodes, where the operator may read them: a module of its own, because kopf watches whatever has a handler."""

from typing import Any

import kopf

from topmast_operator.watch.nodes import read_node


@kopf.index("", "v1", "nodes")
async def nodes(name: str, body: kopf.Body, **_: Any) -> dict[str, Any]:
    return {name: read_node(dict(body))}


@kopf.on.event("", "v1", "nodes")
async def node_changed(body: kopf.Body, type: str | None, memo: Any, **_: Any) -> None:
    """Those who wait for room, when a node takes pods that it did not take before; not at its heartbeats."""
    if type is None:
        memo.bell.listed()
    node = read_node(dict(body))
    state = (node.open, dict(node.labels), node.taints, dict(node.devices))
    if node.devices and (type == "DELETED" or memo.get("seen") != state):
        memo.bell.freed()
    memo.seen = state
