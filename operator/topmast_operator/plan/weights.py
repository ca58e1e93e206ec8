"""What engines have measured of a model's weights, kept in `status.model` for the next revision's requests."""

from typing import Any

from topmast_operator.api.facts import Facts
from topmast_operator.plan.revision import revision_of


def measured_weights(facts: Facts) -> dict[str, Any]:
    """`status.model`; empty while no engine has loaded this source. No part of a revision: it restarts nothing."""
    model = facts.model
    sizes = [pod.engine.bytes_total for pod in facts.pods_of(revision_of(model)) if pod.engine]
    if size := max(sizes, default=0):
        return {"source": model.source, "weightsBytes": size}
    before = model.status.get("model", {})
    return dict(before) if before.get("source") == model.source else {}
