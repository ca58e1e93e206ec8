"""The check pod: a revision's image, volumes and placement without its accelerator, running `topmast check`.

It must land on a node where the model runs already, because that is the room its revision would get.
"""

import copy
from collections.abc import Mapping
from typing import Any

from topmast_operator.api.names import (
    CHECK_NAME,
    CONTAINER,
    LABEL_CHECK,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    LABEL_REVISION,
    MANAGED_BY,
    model_labels,
)
from topmast_operator.api.resource import Model
from topmast_operator.render.access import without_access
from topmast_operator.render.children import Manifest, owned

# Little enough to find room on a full node; the limit is for headers, template and tokenizer, never for weights.
REQUESTS = {"cpu": "10m", "memory": "64Mi"}
LIMITS = {"cpu": "1", "memory": "1Gi"}


def check_pod(model: Model, revision: str, template: Mapping[str, Any]) -> Manifest:
    """The pod that proves `revision` of a model; `template` is the pod template of its replicas."""
    spec = copy.deepcopy(without_access(template["spec"]))  # it serves nobody
    (engine,) = [item for item in spec["containers"] if item["name"] == CONTAINER]
    engine["args"] = ["check", *engine["args"][1:]]  # with its flags: a wrong one is found here, too
    engine["resources"] = {"requests": dict(REQUESTS), "limits": dict(LIMITS)}
    for name in ("startupProbe", "livenessProbe", "readinessProbe", "ports", "lifecycle"):
        engine.pop(name, None)
    spec["containers"] = [engine]
    spec["restartPolicy"] = "OnFailure"
    spec["terminationGracePeriodSeconds"] = 1
    spec.pop("topologySpreadConstraints", None)
    spec.pop("resourceClaims", None)
    spec["affinity"] = _beside_the_model(spec.get("affinity", {}), model)
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_NAME: CHECK_NAME,
        LABEL_CHECK: model.name,
        LABEL_REVISION: revision,
    }
    annotations = template["metadata"].get("annotations", {})
    return owned(model, "v1", "Pod", f"{model.name}-{revision}-check", labels, annotations, spec)


def _beside_the_model(affinity: Mapping[str, Any], model: Model) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": model_labels(model.name)}, "topologyKey": "kubernetes.io/hostname"}
    near = dict(affinity.get("podAffinity", {}))
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    near[required] = [*near.get(required, ()), term]
    return {**affinity, "podAffinity": near}
