"""The revision of a model: eight hex digits made from what the user meant, not from what the operator renders.

So another spelling of a quantity, a field written out with its default, or a new operator version restarts nothing.
Replicas, suspend and autoscaling are no part of it: they change how many pods there are, not what runs in them.
"""

import hashlib
import json
from typing import Any

from topmast_operator.api import quantity
from topmast_operator.api.resource import Model, Resources

DIGITS = 8


def revision_of(model: Model) -> str:
    """The name of the revision that the spec asks for."""
    text = json.dumps(intent(model), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def intent(model: Model) -> dict[str, Any]:
    """What the user asked of one replica, in one spelling, without what equals a default.

    A default that is left out keeps old hashes valid when a later schema adds a field with a default.
    """
    engine, resources, placement = model.engine, model.resources, model.placement
    accelerator = resources.accelerator
    wanted: dict[str, Any] = {
        "source": model.source,
        "image": engine.image,
        "dtype": None if engine.dtype == "auto" else engine.dtype,
        "maxModelLen": engine.max_model_len,
        "maxNumSeqs": engine.max_num_seqs,
        "kvCacheBytes": _bytes(engine.kv_cache_bytes),
        "extraArgs": list(engine.extra_args),
        "env": sorted(engine.env, key=lambda item: item[0]),
        "accelerator": {accelerator.resource: accelerator.count} if accelerator else None,
        "cpu": None if resources.cpu is None else quantity.cpu(resources.cpu),
        "memory": _bytes(resources.memory),
        "ephemeralStorage": _bytes(resources.ephemeral_storage),
        "requests": _requests(resources),
        "extended": dict(resources.extended),
        "nodeSelector": dict(placement.node_selector),
        "tolerations": [dict(item) for item in placement.tolerations],
        "priorityClassName": placement.priority_class_name,
        "restartAt": model.restart_at,
        "drainTimeoutS": None if model.drain_timeout_s == 30 else model.drain_timeout_s,
        "pod": dict(model.pod),
    }
    return {name: value for name, value in wanted.items() if value not in (None, [], {})}


def _bytes(amount: quantity.Quantity | None) -> int | None:
    return None if amount is None else quantity.as_bytes(amount)


def _requests(resources: Resources) -> dict[str, str | int]:
    """Requests that are not the limit: one that equals it says what leaving it out says."""
    asked: dict[str, str | int] = {}
    if "cpu" in resources.requests:
        asked["cpu"] = quantity.cpu(resources.requests["cpu"])
    if "memory" in resources.requests:
        asked["memory"] = quantity.as_bytes(resources.requests["memory"])
    limits = {"cpu": resources.cpu and quantity.cpu(resources.cpu), "memory": _bytes(resources.memory)}
    return {name: amount for name, amount in asked.items() if amount != limits[name]}
