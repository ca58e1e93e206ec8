"""The pod template that a revision keeps for life, on its Deployment, without the values of environment variables.

Values are left out because annotations are read by many and copied to ReplicaSets. They come back from the spec while
it still asks for this revision, which was made from the same values, and else from what runs (docs/decisions/0011).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from topmast_operator.api.names import ANNOTATION_PINNED, ANNOTATION_TEMPLATE, CONTAINER
from topmast_operator.api.resource import Model

LONGEST_BYTES = 128 * 1024  # Kubernetes allows 256 KiB for all annotations of an object together

Template = Mapping[str, Any]
Variable = Mapping[str, Any]


def annotations(template: Template) -> dict[str, str]:
    """What keeps the template on its Deployment; nothing for one that is too long: what runs is kept then."""
    text = json.dumps(without_values(template), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {ANNOTATION_PINNED: text} if len(text.encode()) <= LONGEST_BYTES else {}


def without_values(template: Template) -> dict[str, Any]:
    """The template with the names of variables alone. What is taken from elsewhere (`valueFrom`) is no value."""
    return _change_variables(template, lambda _, item: {key: item[key] for key in item if key != "value"})


def template_of(deployment: Mapping[str, Any], model: Model, *, wanted: bool) -> dict[str, Any]:
    """The pinned template of a Deployment. `wanted`: the spec asks for this very revision.

    Where it was lost, what runs now is pinned instead: nothing may restart.
    """
    kept, live = deployment["metadata"].get("annotations", {}), deployment["spec"]["template"]
    if before := _json(kept.get(ANNOTATION_TEMPLATE)):
        return before  # from a version that kept the values, too
    pinned = _json(kept.get(ANNOTATION_PINNED))
    if pinned is None:
        return dict(live)
    values = _values(live)
    if wanted:
        values |= {(CONTAINER, name): value for name, value in model.engine.env if isinstance(value, str)}

    def restored(container: str, item: Variable) -> Variable | None:
        if "valueFrom" in item:
            return item
        at = (container, item["name"])
        return {**item, "value": values[at]} if at in values else None

    return _change_variables(pinned, restored)


def _values(template: Template) -> dict[tuple[str, str], str]:
    """Literal values by container and variable."""
    found: dict[tuple[str, str], str] = {}

    def note(container: str, item: Variable) -> Variable:
        if "valueFrom" not in item:
            found[container, item["name"]] = item.get("value", "")
        return item

    _change_variables(template, note)
    return found


def _change_variables(template: Template, change: Callable[[str, Variable], Variable | None]) -> dict[str, Any]:
    """Every variable of every container as `change` gives it back; without those that it does not."""
    spec = dict(template["spec"])
    for kind in ("initContainers", "containers"):
        if kind in spec:
            spec[kind] = [
                {**item, "env": [new for old in item["env"] if (new := change(item["name"], old)) is not None]}
                if "env" in item
                else item
                for item in spec[kind]
            ]
    return {**template, "spec": spec}


def _json(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
